"""Tracing: a PyTorch model becomes a Network, and a map of which weights belong to which group.

`capture` runs the model and keeps its operations; `reader` turns them into layers.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from lookup_tables.network import Network
from pruner.graph.capture import capture, first_call, name_of
from pruner.graph.reader import FLATTENS, Channels, GraphReader, Segment, flattens, shape_of

FLATTEN = torch.ops.aten.flatten.using_ints


@dataclass(frozen=True)
class Trace:
    """A traced model: its network, its graph, and the channels of each module with weights."""

    network: Network
    module: fx.GraphModule
    channels: dict[str, Channels]  # module path → channels
    batch_norms: dict[str, str]  # layer name → path of the BatchNorm folded into it
    node_of: dict[str, str]  # layer name → name of the graph node that holds its output
    # Path of a weight that has no module → its channels' dimension, and which they are.
    constants: dict[str, tuple[int, tuple[Segment, ...]]]
    kept: dict[str, str]  # layer whose width cannot be chosen → why

    @property
    def tied(self) -> set[str]:
        """The layers whose weights more than one of them uses."""
        calls = Counter(first_call(layer.name) for layer in self.network.layers)
        return {x.name for x in self.network.layers if calls[first_call(x.name)] > 1}


def trace(model: nn.Module, input_shape: tuple[int, int, int], name: str) -> Trace:
    """Trace a model for inputs of (channels, height, width); raises TraceError."""
    module = capture(model, input_shape)
    _thaw(module)
    reader = GraphReader(module)
    for node in module.graph.nodes:
        reader.read(node)
    return Trace(
        network=reader.network(name, input_shape),
        module=module,
        channels=reader.channels(),
        batch_norms=dict(reader.batch_norms),
        node_of=reader.node_of(),
        constants=reader.constant_channels(),
        kept=reader.assembly.kept(),
    )


def _thaw(module: fx.GraphModule) -> None:
    """Write what tracing froze as what it is: its numbers change with the widths.

    A reshape to counted features is a flatten, one of features to maps adds two dimensions, an
    expansion is left to what reads it, and a channel shuffle is one operation.
    """
    for node in list(module.graph.nodes):
        for rewrite in (_flatten, _as_maps, _unexpanded, _shuffle):
            with module.graph.inserting_before(node):
                made = rewrite(module.graph, node)
            if made is not None:
                if made.op == "call_function" and not made.meta:
                    made.meta = dict(node.meta)
                node.replace_all_uses_with(made)
                module.graph.erase_node(node)
                break
    module.graph.eliminate_dead_code()
    module.recompile()


def _flatten(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    if name_of(node) in FLATTENS and node.target is not FLATTEN and flattens(node):
        return graph.call_function(FLATTEN, (node.all_input_nodes[0], 1))
    return None


def _as_maps(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """(images, features) → (images, features, 1, 1), however it is written."""
    if name_of(node) not in (*FLATTENS, "unsqueeze"):
        return None
    source, after = node.all_input_nodes[0], shape_of(node)
    if name_of(source) == "unsqueeze" and name_of(node) == "unsqueeze":
        source = source.all_input_nodes[0]
    if after is None or shape_of(source) != after[:2] or after[2:] != (1, 1):
        return None
    return graph.call_function(as_maps, (source,))


def _unexpanded(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    if name_of(node) in ("expand", "expand_as") and all(
        name_of(user) in ("add", "mul") for user in node.users
    ):
        return node.all_input_nodes[0]
    return None


def _shuffle(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """(images, g · n, …) → (images, g, n, …) → (images, n, g, …) → (images, n · g, …)."""
    if name_of(node) not in FLATTENS or name_of(turned := node.all_input_nodes[0]) not in (
        "transpose", "permute",
    ):  # fmt: skip
        return None
    apart = turned.all_input_nodes[0]
    if name_of(apart) not in FLATTENS:
        return None
    source = apart.all_input_nodes[0]
    before, between, after = shape_of(source), shape_of(apart), shape_of(node)
    if before is None or between is None or before != after or len(between) != len(before) + 1:
        return None
    swapped = (between[0], between[2], between[1], *between[3:])
    if between[0] != before[0] or between[3:] != before[2:] or shape_of(turned) != swapped:
        return None
    return graph.call_function(torch.ops.aten.channel_shuffle.default, (source, between[1]))


def as_maps(features: Tensor) -> Tensor:
    """(images, features) as maps of one place: (images, features, 1, 1)."""
    return features[:, :, None, None]
