"""Tracing: a PyTorch model becomes a Network, and a map of which weights belong to which group.

The model is run symbolically with torch.fx; `graph_reader` turns the graph into layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from lookup_tables.network import Network
from pruner.errors import TraceError
from pruner.graph_reader import Channels, GraphReader


@dataclass(frozen=True)
class Trace:
    """A traced model: its network, its graph, and the channels of each module with weights."""

    network: Network
    module: fx.GraphModule
    channels: dict[str, Channels]  # module path → channels
    batch_norms: dict[str, str]  # layer name → path of the BatchNorm folded into it
    node_of: dict[str, str]  # layer name → name of the graph node that holds its output


def trace(model: nn.Module, input_shape: tuple[int, int, int], name: str) -> Trace:
    """Trace a model for inputs of (channels, height, width); raises TraceError."""
    module = _symbolic(model)
    _propagate_shapes(module, input_shape)
    reader = GraphReader(module)
    for node in module.graph.nodes:
        reader.read(node)
    return Trace(
        network=reader.network(name, input_shape),
        module=module,
        channels=reader.channels(),
        batch_norms=dict(reader.batch_norms),
        node_of={layer: node.name for layer, node in reader.writer.items()},
    )


class _Tracer(fx.Tracer):
    """Remembers which module was entered last, so that an error can name it."""

    entered = "the model's forward"

    def call_module(self, module, forward, args, kwargs):
        self.entered = self.path_of_module(module)
        return super().call_module(module, forward, args, kwargs)


def _symbolic(model: nn.Module) -> fx.GraphModule:
    tracer = _Tracer()
    try:
        graph = tracer.trace(model)
    except Exception as error:  # whatever the user's forward raises when run on symbols
        raise TraceError(
            f"cannot trace {type(model).__name__}: after {tracer.entered}, forward does what "
            f"depends on the data ({type(error).__name__}: {error}). "
            "Make its control flow independent of tensor values"
        ) from error
    return fx.GraphModule(model, graph)


def _propagate_shapes(module: fx.GraphModule, input_shape: tuple[int, int, int]) -> None:
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            ShapeProp(module).propagate(torch.zeros(1, *input_shape))
    except Exception as error:
        shape = "×".join(map(str, input_shape))
        cause = error.__cause__ or error
        raise TraceError(
            f"cannot run the model on one {shape} input: {cause}. Is --input C×H×W right?"
        ) from error
    finally:
        module.train(training)
