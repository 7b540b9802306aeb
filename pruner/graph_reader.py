"""GraphReader: turns the nodes of a traced graph into fused layers and coupled channels.

Layers are fused as runtimes fuse them: a convolution takes along its BatchNorm, then one addition,
then its activation. Channels that are added or multiplied must shrink together (one group);
concatenated ones stay apart. Channels that reach the network's input, its output or a grouped
convolution are never pruned.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import fx, nn

from lookup_tables.network import INPUT, ChannelGroup, Layer, Network
from pruner.blocks import find_blocks
from pruner.errors import TraceError

_ACTIVATIONS: dict[object, str] = {
    nn.ReLU: "relu", F.relu: "relu", torch.relu: "relu", "relu": "relu",
    nn.ReLU6: "relu6", F.relu6: "relu6",
    nn.LeakyReLU: "leaky_relu", F.leaky_relu: "leaky_relu",
    nn.Sigmoid: "sigmoid", torch.sigmoid: "sigmoid", F.sigmoid: "sigmoid", "sigmoid": "sigmoid",
    nn.Hardsigmoid: "hard_sigmoid", F.hardsigmoid: "hard_sigmoid",
    nn.Hardswish: "hard_swish", F.hardswish: "hard_swish",
    nn.SiLU: "silu", F.silu: "silu",
}  # fmt: skip
_ADDS = {operator.add, operator.iadd, torch.add, "add", "add_"}
_MULTIPLIES = {operator.mul, operator.imul, torch.mul, "mul", "mul_"}
_CONCATS = {torch.cat, torch.concat}
_FLATTENS = {nn.Flatten, torch.flatten, "flatten", "view", "reshape", torch.reshape, "squeeze"}
_PASSED_ON = {nn.Dropout, nn.Dropout2d, nn.Identity, F.dropout, "contiguous"}
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


def menu(width: int, levels: int = 8) -> tuple[int, ...]:
    """Up to `levels` widths worth choosing: multiples of 8, the full width last.

    Below 16 channels the steps are of 2, below 4 of 1.
    """
    step = 8 if width >= 16 else 2 if width >= 4 else 1
    edges = {min(width, step * math.ceil(width * i / levels / step)) for i in range(1, levels + 1)}
    return tuple(sorted(edges))


class _Coupling:
    """Union-find over channel classes; a frozen class is never pruned."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}
        self._frozen: set[str] = set()

    def add(self, name: str) -> str:
        self._parent[name] = name
        return name

    def root(self, name: str) -> str:
        while self._parent[name] != name:
            name = self._parent[name]
        return name

    def unite(self, a: str, b: str) -> None:
        a, b = self.root(a), self.root(b)
        if a == b:
            return
        first, second = sorted((a, b), key=list(self._parent).index)  # named by the earlier layer
        self._parent[second] = first
        if second in self._frozen:
            self._frozen.add(first)

    def freeze(self, name: str) -> None:
        self._frozen.add(self.root(name))

    def is_frozen(self, name: str) -> bool:
        return self.root(name) in self._frozen


@dataclass
class _Tensor:
    """What flows along one edge: who wrote it, and its channels as (class, width) segments."""

    layer: str
    segments: tuple[tuple[str, int], ...]
    flattened: int = 1  # features that stand for each channel


@dataclass
class GraphReader:
    """Walks the graph once; each `_read_…` turns one node into a layer or fuses it into one."""

    module: fx.GraphModule
    layers: dict[str, dict] = field(default_factory=dict)
    tensors: dict[fx.Node, _Tensor] = field(default_factory=dict)
    writer: dict[str, fx.Node] = field(default_factory=dict)  # layer → node of its output so far
    coupling: _Coupling = field(default_factory=_Coupling)
    module_channels: dict[str, tuple] = field(default_factory=dict)
    batch_norms: dict[str, str] = field(default_factory=dict)

    def read(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            self._read_input(node)
        elif node.op == "output":
            self._read_output(node)
        elif shape_of(node) is not None:
            self._read_operation(node)

    def _read_input(self, node: fx.Node) -> None:
        if INPUT in self.writer:
            raise TraceError(f"the model takes a second input, {node.name}; only one is supported")
        self.coupling.add(INPUT)
        self.coupling.freeze(INPUT)
        self.writer[INPUT] = node
        self.tensors[node] = _Tensor(INPUT, ((INPUT, shape_of(node)[1]),))

    def _read_output(self, node: fx.Node) -> None:
        for source in node.all_input_nodes:
            for channels, _ in self.tensors[source].segments:
                self.coupling.freeze(channels)

    def _read_operation(self, node: fx.Node) -> None:
        kind, module = self._operation(node)
        if kind is not nn.Linear and kind not in _FLATTENS | _PASSED_ON:
            for source in node.all_input_nodes:
                if source in self.tensors and self.tensors[source].flattened > 1:
                    raise TraceError(
                        f"layer {self._name(node)} reads flattened maps; only linear layers may"
                    )
        for kinds, read in _READERS:
            if kind in kinds:
                read(self, node, module)
                return
        what = type(module).__name__ if module is not None else getattr(kind, "__name__", kind)
        raise TraceError(
            f"layer {self._name(node)}: {what} is not supported. Supported: convolutions, linear, "
            "BatchNorm, ReLU-like activations, pools, add, multiply, concat, upsample, flatten"
        )

    def _operation(self, node: fx.Node) -> tuple[object, nn.Module | None]:
        if node.op == "call_module":
            module = self.module.get_submodule(node.target)
            return type(module), module
        if node.op == "get_attr":
            raise TraceError(
                f"layer {node.target}: a parameter used outside a module cannot be pruned"
            )
        return node.target, None

    def _name(self, node: fx.Node) -> str:
        return str(node.target) if node.op == "call_module" else node.name

    def _sources(self, node: fx.Node) -> list[_Tensor]:
        return [self.tensors[source] for source in node.all_input_nodes if source in self.tensors]

    def _add_layer(self, node: fx.Node, kind: str, segments, **fields) -> None:
        name = self._name(node)
        if name in self.layers:  # a module without weights may be called again and again
            name = node.name
        sources = fields.pop("inputs", None) or [s.layer for s in self._sources(node)]
        self.layers[name] = {"name": name, "kind": kind, "inputs": tuple(sources), **fields}
        self.writer[name] = node
        self.tensors[node] = _Tensor(name, tuple(segments))

    def _fusable(self, source: fx.Node) -> dict | None:
        """The layer that wrote `source`, if nobody else reads it and it has no activation yet."""
        layer = self.layers.get(self.tensors[source].layer)
        alone = len(source.users) == 1 and self.writer.get(self.tensors[source].layer) is source
        return layer if layer and alone and layer.get("activation", "none") == "none" else None

    def _fuse(self, node: fx.Node, into: dict) -> None:
        source = self.writer[into["name"]]
        self.tensors[node] = self.tensors[source]
        self.writer[into["name"]] = node

    # One reader per kind of node.

    def _claim(self, node: fx.Node, reads, writes) -> None:
        """Note which channels a module's weights read and write; refuse weights used twice."""
        if node.target in self.module_channels:
            raise TraceError(
                f"layer {node.target} is called twice; weights used in two places cannot be pruned"
            )
        self.module_channels[node.target] = (reads, writes)

    def _read_conv(self, node: fx.Node, conv: nn.Conv2d) -> None:
        (source,) = self._sources(node)
        if conv.dilation != (1, 1) or isinstance(conv.padding, str) or conv.padding_mode != "zeros":
            raise TraceError(
                f"layer {node.target}: only convolutions with numeric zero padding and without "
                "dilation are supported"
            )
        geometry = {
            "kernel": tuple(conv.kernel_size),
            "stride": tuple(conv.stride),
            "padding": tuple(conv.padding),
        }
        if conv.groups == conv.in_channels == conv.out_channels and conv.groups > 1:
            self._claim(node, source.segments, source.segments)
            self._add_layer(node, "depthwise", source.segments, **geometry)
            return
        own = self.coupling.add(str(node.target))
        segments = ((own, conv.out_channels),)
        if conv.groups > 1:
            for channels, _ in (*source.segments, *segments):
                self.coupling.freeze(channels)
        self._claim(node, source.segments, segments)
        self._add_layer(
            node, "conv", segments, channels=conv.out_channels, groups=conv.groups, **geometry
        )

    def _read_linear(self, node: fx.Node, linear: nn.Linear) -> None:
        (source,) = self._sources(node)
        own = self.coupling.add(str(node.target))
        segments = ((own, linear.out_features),)
        self._claim(node, source.segments, segments)
        self._add_layer(node, "linear", segments, channels=linear.out_features)

    def _read_batch_norm(self, node: fx.Node, module: nn.Module) -> None:
        source = node.all_input_nodes[0]
        layer = self._fusable(source)
        segments = self.tensors[source].segments
        self._claim(node, segments, segments)
        if layer and layer["kind"] in ("conv", "depthwise") and "residual" not in layer:
            self._fuse(node, layer)
            self.batch_norms[layer["name"]] = str(node.target)
        else:
            self._add_layer(node, "batch_norm", segments)

    def _read_activation(self, node: fx.Node, module: nn.Module | None) -> None:
        kind, _ = self._operation(node)
        source = node.all_input_nodes[0]
        layer = self._fusable(source)
        if layer and layer["kind"] in ("conv", "depthwise", "linear", "add", "batch_norm"):
            layer["activation"] = _ACTIVATIONS[kind]
            self._fuse(node, layer)
        else:
            segments = self.tensors[source].segments
            self._add_layer(node, "activation", segments, activation=_ACTIVATIONS[kind])

    def _read_add(self, node: fx.Node, module: nn.Module | None) -> None:
        sources = self._operands(node, "adds")
        shapes = {shape_of(source) for source in sources}
        if len(shapes) > 1:
            raise TraceError(f"layer {self._name(node)} adds tensors of shapes {sorted(shapes)}")
        self._couple(node)
        names = [self.tensors[source].layer for source in sources]
        order = list(self.layers)
        candidates = [
            (order.index(layer["name"]), source)
            for source in sources
            if (layer := self._fusable(source))
            and layer["kind"] in ("conv", "depthwise")
            and "residual" not in layer
        ]
        others = {self.tensors[source].layer for source in sources}
        if not candidates or len(others) == 1:
            self._add_layer(node, "add", self.tensors[sources[0]].segments, inputs=names)
            return
        position, _ = max(candidates, key=lambda candidate: candidate[0])
        (other,) = others - {order[position]}
        if other != INPUT and order.index(other) > position:  # not computed before
            self._add_layer(node, "add", self.tensors[sources[0]].segments, inputs=names)
            return
        layer = self.layers[order[position]]
        layer["residual"] = other
        self._fuse(node, layer)

    def _read_multiply(self, node: fx.Node, module: nn.Module | None) -> None:
        sources = self._operands(node, "multiplies")
        self._couple(node)
        larger = sorted(sources, key=lambda s: -math.prod(shape_of(s)))  # the gate broadcasts
        names = [self.tensors[source].layer for source in larger]
        self._add_layer(node, "multiply", self.tensors[larger[0]].segments, inputs=names)

    def _operands(self, node: fx.Node, verb: str) -> list[fx.Node]:
        sources = [arg for arg in node.args if isinstance(arg, fx.Node)]
        if len(node.args) != 2 or len(sources) != 2 or shape_of(sources[1]) is None:
            raise TraceError(f"layer {self._name(node)} {verb} a constant, which is not supported")
        return sources

    def _couple(self, node: fx.Node) -> None:
        """Channels that meet elementwise shrink together; where segments differ, not at all."""
        first, *others = (self.tensors[source].segments for source in node.all_input_nodes)
        for other in others:
            if [width for _, width in first] == [width for _, width in other]:
                for (a, _), (b, _) in zip(first, other, strict=True):
                    self.coupling.unite(a, b)
            else:
                for channels, _ in (*first, *other):
                    self.coupling.freeze(channels)

    def _read_concat(self, node: fx.Node, module: nn.Module | None) -> None:
        dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
        if dim % len(shape_of(node)) != 1:
            raise TraceError(f"layer {self._name(node)} concatenates along {dim}, not channels")
        parts = [self.tensors[source] for source in node.args[0]]
        segments = [segment for part in parts for segment in part.segments]
        self._add_layer(node, "concat", segments, inputs=[part.layer for part in parts])

    def _read_pool(self, node: fx.Node, module: nn.Module | None) -> None:
        kind, _ = self._operation(node)
        source = self.tensors[node.all_input_nodes[0]]
        options = _options(node, module, ("kernel_size", "stride", "padding"))
        if options.get("ceil_mode") or options.get("dilation") not in (None, 1, (1, 1)):
            raise TraceError(
                f"layer {self._name(node)} pools with ceil_mode or dilation, which is not supported"
            )
        kernel = _pair(options["kernel_size"])
        self._add_layer(
            node,
            "max_pool" if kind in _MAX_POOLS else "avg_pool",
            source.segments,
            kernel=kernel,
            stride=_pair(options.get("stride") or kernel),
            padding=_pair(options.get("padding") or 0),
        )

    def _read_global_pool(self, node: fx.Node, module: nn.Module | None) -> None:
        source = node.all_input_nodes[0]
        shape = shape_of(node)
        if shape == shape_of(source):  # an adaptive pool to the size it finds
            self._read_passed_on(node, module)
            return
        if len(shape_of(source)) != 4 or math.prod(shape) != shape[1]:
            raise TraceError(
                f"layer {self._name(node)}: pools to {shape}; only 1×1 (global) is supported"
            )
        self._add_layer(node, "global_avg_pool", self.tensors[source].segments)

    def _read_upsample(self, node: fx.Node, module: nn.Module | None) -> None:
        source = node.all_input_nodes[0]
        options = _options(node, module, ("size", "scale_factor", "mode"))
        factors = [b / a for a, b in zip(shape_of(source)[2:], shape_of(node)[2:], strict=True)]
        if options.get("mode", "nearest") != "nearest" or any(f != int(f) for f in factors):
            raise TraceError(f"layer {self._name(node)}: only nearest upsampling by whole factors")
        stride = tuple(int(factor) for factor in factors)
        self._add_layer(node, "upsample", self.tensors[source].segments, stride=stride)

    def _read_flatten(self, node: fx.Node, module: nn.Module | None) -> None:
        source = node.all_input_nodes[0]
        before, after = shape_of(source), shape_of(node)
        if before != after and (len(after) != 2 or math.prod(before[1:]) != after[1]):
            raise TraceError(
                f"layer {self._name(node)} reshapes {before} to {after}; only flattening to "
                "(batch, features) is supported"
            )
        tensor = self.tensors[source]
        per_channel = after[1] // sum(width for _, width in tensor.segments)
        flattened = per_channel if len(after) == 2 else tensor.flattened
        self.tensors[node] = _Tensor(tensor.layer, tensor.segments, flattened)
        if self.writer[tensor.layer] is source:
            self.writer[tensor.layer] = node

    def _read_passed_on(self, node: fx.Node, module: nn.Module | None) -> None:
        source = node.all_input_nodes[0]
        self.tensors[node] = self.tensors[source]
        if self.writer[self.tensors[source].layer] is source and len(source.users) == 1:
            self.writer[self.tensors[source].layer] = node

    # The result.

    def network(self, name: str, input_shape: tuple[int, int, int]) -> Network:
        """The layers read so far as a Network."""
        groups: dict[str, int] = {}
        for layer in self.layers.values():
            if layer["kind"] in ("conv", "linear"):
                group = self._group(layer["name"])
                layer["group"] = group
                if group:
                    groups[group] = layer["channels"]
        layers = tuple(Layer(**layer) for layer in self.layers.values())
        menus = (ChannelGroup(name=g, width=w, choices=menu(w)) for g, w in groups.items())
        try:
            return Network(
                name=name,
                input_shape=input_shape,
                groups=tuple(menus),
                blocks=find_blocks(layers),
                layers=layers,
            )
        except ValidationError as error:
            raise TraceError(
                f"{name} has layers that do not fit together: {error.errors()[0]['msg']}"
            ) from None

    def _group(self, channels: str) -> str | None:
        return None if self.coupling.is_frozen(channels) else self.coupling.root(channels)

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
        return tuple(Segment(self._group(name), width, repeat) for name, width in segments)


_READERS: list[tuple[object, Callable]] = [
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
    (_PASSED_ON, GraphReader._read_passed_on),
]


def _options(node: fx.Node, module: nn.Module | None, names: tuple[str, ...]) -> dict:
    """A pool's or upsample's options, from its module or from the call's arguments."""
    if module is not None:
        return dict(vars(module))
    return dict(zip(names, node.args[1:], strict=False)) | dict(node.kwargs)


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


def shape_of(node: fx.Node) -> tuple[int, ...] | None:
    meta = node.meta.get("tensor_meta")
    return tuple(meta.shape) if hasattr(meta, "shape") else None
