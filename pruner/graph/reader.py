"""GraphReader: turns the nodes of a traced graph into fused layers and coupled channels.

What is fused and what is coupled, `lookup_tables/graph/assembly.py` decides; here is what PyTorch
calls each operation, and which channels each module's weights read and write.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.utils.parametrize import is_parametrized

from lookup_tables.errors import NetworkError
from lookup_tables.graph.assembly import Assembly, Tensor
from lookup_tables.network import Network
from pruner import TraceError

_ACTIVATIONS: dict[object, str] = {
    nn.ReLU: "relu", F.relu: "relu", torch.relu: "relu", "relu": "relu",
    nn.ReLU6: "relu6", F.relu6: "relu6",
    nn.LeakyReLU: "leaky_relu", F.leaky_relu: "leaky_relu",
    nn.Sigmoid: "sigmoid", torch.sigmoid: "sigmoid", F.sigmoid: "sigmoid", "sigmoid": "sigmoid",
    nn.Hardsigmoid: "hard_sigmoid", F.hardsigmoid: "hard_sigmoid",
    nn.Hardswish: "hard_swish", F.hardswish: "hard_swish",
    nn.SiLU: "silu", F.silu: "silu",
}  # fmt: skip
_ADDS: set[object] = {operator.add, operator.iadd, torch.add, "add", "add_"}
_MULTIPLIES: set[object] = {operator.mul, operator.imul, torch.mul, "mul", "mul_"}
_CONCATS = {torch.cat, torch.concat}
_FLATTENS = {nn.Flatten, torch.flatten, "flatten", "view", "reshape", torch.reshape, "squeeze"}
PASSED_ON = {nn.Dropout, nn.Dropout2d, nn.Identity, F.dropout, "contiguous"}
_MEANS = {torch.mean, "mean", F.adaptive_avg_pool2d, nn.AdaptiveAvgPool2d}
_MAX_POOLS = {nn.MaxPool2d, F.max_pool2d, torch.max_pool2d}
_AVG_POOLS = {nn.AvgPool2d, F.avg_pool2d}
_UPSAMPLES = {nn.Upsample, nn.UpsamplingNearest2d, F.interpolate}


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive channels of one group; `repeat` features stand for each channel."""

    group: str | None
    width: int
    repeat: int = 1


@dataclass(frozen=True, slots=True)
class Channels:
    """Which channels a module's weights read and write, in order."""

    reads: tuple[Segment, ...]
    writes: tuple[Segment, ...]


class GraphReader:
    """Walks the graph once; each `_read_…` tells the assembly about one node."""

    def __init__(self, module: fx.GraphModule) -> None:
        self.module = module
        self.assembly = Assembly({node: len(node.users) for node in module.graph.nodes})
        self.module_channels: dict[str, tuple] = {}
        self.batch_norms: dict[str, str] = {}
        self._input: fx.Node | None = None

    def read(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            self._read_input(node)
        elif node.op == "output":
            for source in node.all_input_nodes:
                self.assembly.output(source)
        elif shape_of(node) is not None:
            self._read_operation(node)
        elif "tensor_meta" in node.meta:  # several tensors: chunk, split, attention
            raise self._unsupported(node)

    def _read_input(self, node: fx.Node) -> None:
        if self._input is not None and not node.users:  # an optional argument that is never read
            return
        if self._input is not None:
            raise TraceError(
                f"the model takes a second input, {node.name}; only one is supported. Wrap it in a "
                "module whose forward takes the images alone"
            )
        self._input = node
        self.assembly.input(node, _known_shape(node)[1])

    def _read_operation(self, node: fx.Node) -> None:
        kind, module = self._operation(node)
        if kind is not nn.Linear and kind not in _FLATTENS | PASSED_ON:
            for source in node.all_input_nodes:
                tensor = self.assembly.tensors.get(source)
                if tensor and tensor.flattened > 1:
                    raise TraceError(
                        f"layer {self._name(node)} reads flattened maps; only linear layers may"
                    )
        for kinds, read in _READERS:
            if kind in kinds:
                read(self, node, module)
                return
        raise self._unsupported(node)

    def _unsupported(self, node: fx.Node) -> TraceError:
        kind, module = self._operation(node)
        what = type(module).__name__ if module is not None else getattr(kind, "__name__", kind)
        return TraceError(
            f"layer {self._name(node)}{_inside(node)}: {what} is not supported. Supported: "
            "convolutions, linear, BatchNorm, ReLU-like activations, pools, add, multiply, concat, "
            "upsample, flatten"
        )

    def _operation(self, node: fx.Node) -> tuple[object, nn.Module | None]:
        if node.op == "call_module":
            module = self.module.get_submodule(str(node.target))
            return computes_as(module), module
        if node.op == "get_attr":
            raise TraceError(
                f"{node.target}{_inside(node)}: a custom forward reads these weights, so they "
                "cannot be pruned. Only weights of convolutions, linear layers and BatchNorm can"
            )
        return node.target, None

    def _name(self, node: fx.Node) -> str:
        """A module's path; a module without weights may be called again and again."""
        if node.op != "call_module":
            return node.name
        return self.assembly.layer_name(str(node.target), node.name)

    def _tensor(self, node: fx.Node) -> Tensor:
        return self.assembly.tensors[node]

    # One reader per kind of node.

    def _claim(self, node: fx.Node, reads, writes) -> None:
        """Note which channels a module's weights read and write; refuse weights used twice."""
        path = str(node.target)
        if path in self.module_channels:
            raise TraceError(
                f"layer {path} is called twice; weights used in two places cannot be pruned"
            )
        self.module_channels[path] = (reads, writes)

    def _read_conv(self, node: fx.Node, conv: nn.Conv2d) -> None:
        (source,) = self._known_inputs(node)
        if conv.dilation != (1, 1) or isinstance(conv.padding, str) or conv.padding_mode != "zeros":
            raise TraceError(
                f"layer {node.target}: only convolutions with numeric zero padding and without "
                "dilation are supported"
            )
        self.assembly.conv(
            str(node.target),
            node,
            source,
            conv.out_channels,
            conv.groups,
            _pair(conv.kernel_size),
            _pair(conv.stride),
            _pair(conv.padding),
        )
        self._claim(node, self._tensor(source).segments, self._tensor(node).segments)

    def _read_linear(self, node: fx.Node, linear: nn.Linear) -> None:
        (source,) = self._known_inputs(node)
        self.assembly.linear(str(node.target), node, source, linear.out_features)
        self._claim(node, self._tensor(source).segments, self._tensor(node).segments)

    def _known_inputs(self, node: fx.Node) -> list[fx.Node]:
        return [source for source in node.all_input_nodes if source in self.assembly.tensors]

    def _read_batch_norm(self, node: fx.Node, module: nn.Module) -> None:
        source = node.all_input_nodes[0]
        segments = self._tensor(source).segments
        self._claim(node, segments, segments)
        fused = self.assembly.batch_norm(str(node.target), node, source)
        if fused is not None:
            self.batch_norms[fused] = str(node.target)

    def _read_activation(self, node: fx.Node, module: nn.Module | None) -> None:
        kind, _ = self._operation(node)
        source = node.all_input_nodes[0]
        self.assembly.activation(self._name(node), node, source, _ACTIVATIONS[kind])

    def _read_add(self, node: fx.Node, module: nn.Module | None) -> None:
        sources = self._operands(node, "adds")
        shapes = {_known_shape(source) for source in sources}
        if len(shapes) > 1:
            raise TraceError(
                f"layer {self._name(node)} adds tensors of different shapes: {sorted(shapes)}"
            )
        self.assembly.add(self._name(node), node, sources)

    def _read_multiply(self, node: fx.Node, module: nn.Module | None) -> None:
        sources = self._operands(node, "multiplies")
        larger = sorted(sources, key=lambda s: -math.prod(_known_shape(s)))  # the gate broadcasts
        self.assembly.multiply(self._name(node), node, larger)

    def _operands(self, node: fx.Node, verb: str) -> list[fx.Node]:
        sources = [arg for arg in node.args if isinstance(arg, fx.Node)]
        if len(node.args) != 2 or len(sources) != 2 or None in map(shape_of, sources):
            raise TraceError(f"layer {self._name(node)} {verb} a constant, which is not supported")
        return sources

    def _read_concat(self, node: fx.Node, module: nn.Module | None) -> None:
        named = node.kwargs.get("dim", node.kwargs.get("axis", 0))
        dim = node.args[1] if len(node.args) > 1 else named
        assert isinstance(dim, int)
        if dim % len(_known_shape(node)) != 1:
            raise TraceError(
                f"layer {self._name(node)} concatenates along dimension {dim}; only channels are "
                "supported"
            )
        parts = node.args[0] if node.args else node.kwargs["tensors"]
        assert isinstance(parts, list | tuple)
        sources = [part for part in parts if isinstance(part, fx.Node)]  # all are
        self.assembly.concat(self._name(node), node, sources)

    def _read_pool(self, node: fx.Node, module: nn.Module | None) -> None:
        kind, _ = self._operation(node)
        options = _options(node, module, ("kernel_size", "stride", "padding"))
        if options.get("ceil_mode") or options.get("dilation") not in (None, 1, (1, 1)):
            raise TraceError(
                f"layer {self._name(node)} pools with ceil_mode or dilation, which is not supported"
            )
        kernel = _pair(options["kernel_size"])
        self.assembly.pool(
            self._name(node),
            node,
            node.all_input_nodes[0],
            "max_pool" if kind in _MAX_POOLS else "avg_pool",
            kernel,
            _pair(options.get("stride") or kernel),
            _pair(options.get("padding") or 0),
        )

    def _read_global_pool(self, node: fx.Node, module: nn.Module | None) -> None:
        source = node.all_input_nodes[0]
        before, shape = _known_shape(source), _known_shape(node)
        if shape == before:  # an adaptive pool to the size it finds
            self.assembly.pass_on(node, source)
            return
        if len(before) != 4 or math.prod(shape) != shape[1]:
            raise TraceError(
                f"layer {self._name(node)}: pools to {shape}; only 1×1 (global) is supported"
            )
        self.assembly.global_pool(self._name(node), node, source)

    def _read_upsample(self, node: fx.Node, module: nn.Module | None) -> None:
        source = node.all_input_nodes[0]
        options = _options(node, module, ("size", "scale_factor", "mode"))
        before, after = _known_shape(source), _known_shape(node)
        factors = [b / a for a, b in zip(before[2:], after[2:], strict=True)]
        if options.get("mode", "nearest") != "nearest" or any(f != int(f) for f in factors):
            raise TraceError(
                f"layer {self._name(node)}: only nearest-neighbour upsampling by whole factors is "
                "supported"
            )
        down, across = (int(factor) for factor in factors)
        self.assembly.upsample(self._name(node), node, source, (down, across))

    def _read_flatten(self, node: fx.Node, module: nn.Module | None) -> None:
        source = node.all_input_nodes[0]
        before, after = _known_shape(source), _known_shape(node)
        if before != after and (len(after) != 2 or math.prod(before[1:]) != after[1]):
            raise TraceError(
                f"layer {self._name(node)} reshapes {before} to {after}; only flattening to "
                "(batch, features) is supported"
            )
        self.assembly.flatten(node, source, after[1] if len(after) == 2 else None)

    def _read_passed_on(self, node: fx.Node, module: nn.Module | None) -> None:
        self.assembly.pass_on(node, node.all_input_nodes[0])

    # The result.

    def network(self, name: str, input_shape: tuple[int, int, int]) -> Network:
        """The layers read so far as a Network; raises TraceError."""
        try:
            return self.assembly.network(name, input_shape)
        except NetworkError as error:
            raise TraceError(str(error)) from None

    def node_of(self) -> dict[str, str]:
        """Layer → name of the node that holds its output."""
        found = {}
        for layer, node in self.assembly.written.items():
            assert isinstance(node, fx.Node)
            found[layer] = node.name
        return found

    def channels(self) -> dict[str, Channels]:
        """Module path → the channels its weights read and write."""
        return {
            path: Channels(
                self._segments(reads, self.module.get_submodule(path)), self._segments(writes)
            )
            for path, (reads, writes) in self.module_channels.items()
        }

    def _segments(self, segments, module: nn.Module | None = None) -> tuple[Segment, ...]:
        repeat = 1
        if isinstance(module, nn.Linear):
            repeat = module.in_features // sum(width for _, width in segments)
        return tuple(Segment(self.assembly.group(name), width, repeat) for name, width in segments)


_READERS: list[tuple[Collection[object], Callable]] = [
    ({nn.Conv2d}, GraphReader._read_conv),
    ({nn.Linear}, GraphReader._read_linear),
    ({nn.BatchNorm2d}, GraphReader._read_batch_norm),
    (_ACTIVATIONS, GraphReader._read_activation),
    (_ADDS, GraphReader._read_add),
    (_MULTIPLIES, GraphReader._read_multiply),
    (_CONCATS, GraphReader._read_concat),
    (_MAX_POOLS | _AVG_POOLS, GraphReader._read_pool),
    (_MEANS, GraphReader._read_global_pool),
    (_UPSAMPLES, GraphReader._read_upsample),
    (_FLATTENS, GraphReader._read_flatten),
    (PASSED_ON, GraphReader._read_passed_on),
]


MODULES = tuple(kind for kinds, _ in _READERS for kind in kinds if isinstance(kind, type))


def computes_as(module: nn.Module) -> type:
    """The supported class whose computation a module inherits unchanged, or else its own class."""
    own = type(module)
    if is_parametrized(module):  # its weights are results, nothing that could be cut
        return own
    for known in MODULES:
        if issubclass(own, known) and all(
            getattr(own, method, None) is getattr(known, method, None)
            for method in ("forward", "_conv_forward")
        ):
            return known
    return own


def _inside(node: fx.Node) -> str:
    """In which module's forward an operation was called, in words."""
    if node.op == "call_module":
        return ""
    path = next(reversed(node.meta.get("nn_module_stack", {})), "")
    return f" in {path}" if path else ""


def _options(node: fx.Node, module: nn.Module | None, names: tuple[str, ...]) -> dict:
    """A pool's or upsample's options, from its module or from the call's arguments."""
    if module is not None:
        return dict(vars(module))
    return dict(zip(names, node.args[1:], strict=False)) | dict(node.kwargs)


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    first, second = value
    return first, second


def shape_of(node: fx.Node) -> tuple[int, ...] | None:
    """The shape of a node's output; None where it is no single tensor."""
    meta = node.meta.get("tensor_meta")
    return tuple(meta.shape) if meta is not None and hasattr(meta, "shape") else None


def _known_shape(node: fx.Node) -> tuple[int, ...]:
    """The shape of a node's output that is a single tensor."""
    shape = shape_of(node)
    assert shape is not None
    return shape
