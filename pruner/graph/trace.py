"""Tracing: a PyTorch model becomes a Network, and a map of which weights belong to which group.

The model is run symbolically with torch.fx; `graph_reader` turns the graph into layers.
"""

from __future__ import annotations

import inspect
import operator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from lookup_tables.network import Network
from pruner import TraceError
from pruner.graph.reader import MODULES, Channels, GraphReader, computes_as, shape_of

VIEWS = {
    operator.getitem, "view", "reshape", "flatten", "narrow", "select", "permute", "transpose",
    "squeeze", "unsqueeze", "chunk", "split",
}  # fmt: skip


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
    _require_results_used(module.graph)
    _free_of_constants(module)
    reader = GraphReader(module)
    for node in module.graph.nodes:
        reader.read(node)
    return Trace(
        network=reader.network(name, input_shape),
        module=module,
        channels=reader.channels(),
        batch_norms=dict(reader.batch_norms),
        node_of=reader.node_of(),
    )


def _require_results_used(graph: fx.Graph) -> None:
    """Raise TraceError for what changes in place a tensor that the output depends on, unassigned.

    The graph knows values only by what returns them: such an operation would be taken for one
    that no output needs.
    """
    (output,) = (node for node in graph.nodes if node.op == "output")
    needed, waiting = set(), [output]
    while waiting:
        if (node := waiting.pop()) not in needed:
            needed.add(node)
            waiting += node.all_input_nodes
    for node in graph.nodes:
        if node not in needed and _is_in_place(node) and _viewed(node.args[0]) in needed:
            raise TraceError(
                f"layer {node.name}: forward changes a tensor in place and leaves the result "
                "unassigned, which cannot be traced. Assign it, as in x = self.relu(x)"
            )


def _is_in_place(node: fx.Node) -> bool:
    if not (node.args and isinstance(node.args[0], fx.Node)):
        return False
    if node.op == "call_module":
        module = node.graph.owning_module
        assert module is not None
        return getattr(module.get_submodule(str(node.target)), "inplace", False)
    if node.op not in ("call_method", "call_function"):
        return False
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if name == "setitem" or (name.endswith("_") and not name.endswith("__")):
        return True
    return bool(_arguments(node).get("inplace", False))


def _arguments(node: fx.Node) -> dict:
    """By name, where the function tells the names of what it takes."""
    if isinstance(node.target, str):  # a method's name
        return node.kwargs
    try:
        return inspect.signature(node.target).bind(*node.args, **node.kwargs).arguments
    except (TypeError, ValueError):  # a function of C
        return node.kwargs


def _viewed(node: fx.Node) -> fx.Node:
    """The tensor that a view, or a view of a view, is of."""
    while node.target in VIEWS and node.args and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return node


def _free_of_constants(module: fx.GraphModule) -> None:
    """Rewrite what tracing froze: reshapes to counted features, and dropout that is always off.

    Layers that no output depends on are dropped.
    """
    module.graph.eliminate_dead_code()
    for node in list(module.graph.nodes):
        if node.target in ("view", "reshape", torch.reshape) and _flattens(node):
            with module.graph.inserting_before(node):
                flat = module.graph.call_function(torch.flatten, (_source(node), 1))
        elif node.target is F.dropout:
            share = node.args[1] if len(node.args) > 1 else node.kwargs.get("p", 0.5)
            module.add_submodule(node.name, nn.Dropout(share))
            with module.graph.inserting_before(node):
                flat = module.graph.call_module(node.name, (_source(node),))
        else:
            continue
        flat.meta = dict(node.meta)
        node.replace_all_uses_with(flat)
        module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    module.recompile()


def _source(node: fx.Node) -> fx.Node:
    """The tensor that an operation is called on, by place or by name."""
    return node.all_input_nodes[0]


def _flattens(node: fx.Node) -> bool:
    before, after = shape_of(_source(node)), shape_of(node)
    assert before is not None
    assert after is not None
    return len(before) >= 2 and len(after) == 2 and before[0] == after[0]


class _Tracer(fx.Tracer):
    """Remembers which module was entered last, so that an error can name it."""

    entered = "the model's forward"

    def is_leaf_module(self, module, qualified_name) -> bool:
        """A user's subclass that computes what its base does is as good as the base."""
        return computes_as(module) in MODULES or super().is_leaf_module(module, qualified_name)

    def call_module(self, module, forward, args, kwargs):
        self.entered = self.path_of_module(module)
        return super().call_module(module, forward, args, kwargs)


def _symbolic(model: nn.Module) -> fx.GraphModule:
    tracer = _Tracer()
    try:
        graph = tracer.trace(model)
    except Exception as error:  # whatever the user's forward raises when run on symbols
        raise TraceError(
            f"cannot trace {type(model).__name__}: after {tracer.entered}, forward depends on "
            f"tensor values ({type(error).__name__}: {error}). Make its control flow independent "
            "of them"
        ) from error
    return fx.GraphModule(model, graph)


def _propagate_shapes(module: fx.GraphModule, input_shape: tuple[int, int, int]) -> None:
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            device = next(module.parameters(), torch.empty(0)).device  # `meta` needs no weights
            example = torch.zeros(1, *input_shape, device=device)
            module(example)  # ShapeProp prints a traceback of its own where this fails
            ShapeProp(module).propagate(example)
    except Exception as error:  # whatever the user's modules raise on a wrong shape
        shape = "×".join(map(str, input_shape))
        cause = error.__cause__ or error
        raise TraceError(
            f"cannot run the model on one {shape} input: {cause}. It must accept images of "
            "(channels, height, width) as the data set or --input gives them"
        ) from error
    finally:
        module.train(training)
