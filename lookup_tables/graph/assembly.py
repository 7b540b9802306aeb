"""Assembly: fused layers and coupled channels out of a graph's operations, whoever reads the graph.

Layers are fused as runtimes fuse them: a convolution takes along its BatchNorm, then one addition,
then its activation. Channels that are added or multiplied must shrink together (one group);
concatenated ones stay apart. Channels that reach the network's input, its output or a grouped
convolution are never pruned.

A reader (of PyTorch's graphs or of ONNX) walks the operations in execution order and calls one
method for each. Tensors are known by handles of the reader's choice.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from lookup_tables.errors import NetworkError
from lookup_tables.graph.blocks import find_blocks
from lookup_tables.layer import Padding, Size
from lookup_tables.network import INPUT, ChannelGroup, Layer, Network

Handle = Hashable
_TAKE_ACTIVATIONS = ("conv", "depthwise", "linear", "add", "batch_norm")


@dataclass(frozen=True, slots=True)
class Tensor:
    """What flows along one edge: who wrote it, and its channels as (class, width) segments."""

    layer: str
    segments: tuple[tuple[str, int], ...]
    flattened: int = 1  # features that stand for each channel

    @property
    def channels(self) -> int:
        return sum(width for _, width in self.segments)


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


class Assembly:
    """Collects layers; every method takes the handle of its output and those of its inputs."""

    def __init__(self, uses: Mapping[Handle, int]) -> None:
        """`uses`: how many operations read each tensor; outputs of the network count as read."""
        self._uses = uses
        self._layers: dict[str, dict] = {}
        self.written: dict[str, Handle] = {}  # layer → the tensor of its output so far
        self._coupling = _Coupling()
        self.tensors: dict[Handle, Tensor] = {}
        self._outputs: set[str] = set()  # layers

    # -- operations ----------------------------------------------------------------------------

    def input(self, out: Handle, channels: int) -> None:
        """The network's input; its channels are never pruned."""
        self._coupling.add(INPUT)
        self._coupling.freeze(INPUT)
        self.written[INPUT] = out
        self.tensors[out] = Tensor(INPUT, ((INPUT, channels),))

    def output(self, source: Handle) -> None:
        """Somebody outside reads this tensor: its channels are never pruned."""
        self._outputs.add(self.tensors[source].layer)
        for channels, _ in self.tensors[source].segments:
            self._coupling.freeze(channels)

    def conv(
        self,
        name: str,
        out: Handle,
        source: Handle,
        channels: int,
        groups: int,
        kernel: Size,
        stride: Size,
        padding: Padding,
    ) -> None:
        read = self.tensors[source]
        geometry = {"kernel": kernel, "stride": stride, "padding": padding}
        if groups == read.channels == channels and groups > 1:
            self._add(name, "depthwise", out, [source], read.segments, **geometry)
            return
        segments = ((self._coupling.add(name), channels),)
        if groups > 1:
            for frozen, _ in (*read.segments, *segments):
                self._coupling.freeze(frozen)
        self._add(
            name, "conv", out, [source], segments, channels=channels, groups=groups, **geometry
        )

    def linear(self, name: str, out: Handle, source: Handle, channels: int) -> None:
        segments = ((self._coupling.add(name), channels),)
        self._add(name, "linear", out, [source], segments, channels=channels)

    def batch_norm(self, name: str, out: Handle, source: Handle) -> str | None:
        """Returns the layer it was fused into, None if it became one of its own."""
        layer = self._fusable(source)
        if layer and layer["kind"] in ("conv", "depthwise") and "residual" not in layer:
            self._fuse(out, layer)
            return layer["name"]
        self._add(name, "batch_norm", out, [source], self.tensors[source].segments)
        return None

    def activation(self, name: str, out: Handle, source: Handle, activation: str) -> None:
        layer = self._fusable(source)
        if layer and layer["kind"] in _TAKE_ACTIVATIONS:
            layer["activation"] = activation
            self._fuse(out, layer)
        else:
            segments = self.tensors[source].segments
            self._add(name, "activation", out, [source], segments, activation=activation)

    def add(self, name: str, out: Handle, sources: Sequence[Handle]) -> None:
        """An addition of two tensors of one shape; fused into the later convolution if it can."""
        self._couple(sources)
        order = list(self._layers)
        candidates = [
            order.index(layer["name"])
            for source in sources
            if (layer := self._fusable(source))
            and layer["kind"] in ("conv", "depthwise")
            and "residual" not in layer
        ]
        writers = {self.tensors[source].layer for source in sources}
        if candidates and len(writers) == 2:
            layer = self._layers[order[max(candidates)]]
            (other,) = writers - {layer["name"]}
            if other == INPUT or order.index(other) < max(candidates):  # computed before
                layer["residual"] = other
                self._fuse(out, layer)
                return
        self._add(name, "add", out, sources, self.tensors[sources[0]].segments)

    def multiply(self, name: str, out: Handle, sources: Sequence[Handle]) -> None:
        """A product of two tensors, the larger one first: the other may be broadcast."""
        self._couple(sources)
        self._add(name, "multiply", out, sources, self.tensors[sources[0]].segments)

    def concat(self, name: str, out: Handle, sources: Sequence[Handle]) -> None:
        segments = [s for source in sources for s in self.tensors[source].segments]
        self._add(name, "concat", out, sources, segments)

    def pool(
        self, name: str, out: Handle, source: Handle, kind: str,
        kernel: Size, stride: Size, padding: Padding,
    ) -> None:  # fmt: skip
        self._add(
            name, kind, out, [source], self.tensors[source].segments,
            kernel=kernel, stride=stride, padding=padding,
        )  # fmt: skip

    def global_pool(self, name: str, out: Handle, source: Handle) -> None:
        self._add(name, "global_avg_pool", out, [source], self.tensors[source].segments)

    def upsample(self, name: str, out: Handle, source: Handle, factors: Size) -> None:
        segments = self.tensors[source].segments
        self._add(name, "upsample", out, [source], segments, stride=factors)

    def flatten(self, out: Handle, source: Handle, features: int | None) -> None:
        """`features` of the flattened tensor; None where the shape stays as it is."""
        tensor = self.tensors[source]
        flattened = tensor.flattened if features is None else features // tensor.channels
        self.tensors[out] = Tensor(tensor.layer, tensor.segments, flattened)
        if self.written[tensor.layer] == source:
            self.written[tensor.layer] = out

    def pass_on(self, out: Handle, source: Handle) -> None:
        """An operation that changes nothing at inference."""
        tensor = self.tensors[out] = self.tensors[source]
        if self.written[tensor.layer] == source and self._uses[source] == 1:
            self.written[tensor.layer] = out

    # -- how they come together ----------------------------------------------------------------

    def layer_name(self, name: str, otherwise: str) -> str:
        """`name`, or `otherwise` where a layer is called so already."""
        return otherwise if name in self._layers else name

    def _add(
        self, name: str, kind: str, out: Handle, sources: Sequence[Handle], segments, **fields
    ) -> None:
        inputs = tuple(self.tensors[source].layer for source in sources)
        self._layers[name] = {"name": name, "kind": kind, "inputs": inputs, **fields}
        self.written[name] = out
        self.tensors[out] = Tensor(name, tuple(segments))

    def _fusable(self, source: Handle) -> dict | None:
        """The layer that wrote `source`, if nobody else reads it and it has no activation yet."""
        layer = self._layers.get(self.tensors[source].layer)
        alone = self._uses[source] == 1 and self.written.get(self.tensors[source].layer) == source
        return layer if layer and alone and layer.get("activation", "none") == "none" else None

    def _fuse(self, out: Handle, into: dict) -> None:
        source = self.written[into["name"]]
        self.tensors[out] = self.tensors[source]
        self.written[into["name"]] = out

    def _couple(self, sources: Sequence[Handle]) -> None:
        """Channels that meet elementwise shrink together; where segments differ, not at all."""
        first, *others = (self.tensors[source].segments for source in sources)
        for other in others:
            if [width for _, width in first] == [width for _, width in other]:
                for (a, _), (b, _) in zip(first, other, strict=True):
                    self._coupling.unite(a, b)
            else:
                for channels, _ in (*first, *other):
                    self._coupling.freeze(channels)

    # -- the result ----------------------------------------------------------------------------

    def network(self, name: str, input_shape: tuple[int, int, int]) -> Network:
        """The layers read so far; raises NetworkError if they do not fit together."""
        groups: dict[str, int] = {}
        for layer in self._layers.values():
            if layer["kind"] in ("conv", "linear"):
                group = self.group(layer["name"])
                layer["group"] = group
                if group:
                    groups[group] = layer["channels"]
        try:
            layers = tuple(Layer(**layer) for layer in self._layers.values())
            menus = (ChannelGroup(name=g, width=w, choices=menu(w)) for g, w in groups.items())
            return Network(
                name=name,
                input_shape=input_shape,
                groups=tuple(menus),
                blocks=find_blocks(layers, self._outputs),
                layers=layers,
            )
        except ValidationError as error:
            raise NetworkError(
                f"{name} has layers that do not fit together: {error.errors()[0]['msg']}"
            ) from None

    def group(self, channels: str) -> str | None:
        """The group that a layer's channels belong to, None if they are never pruned."""
        return None if self._coupling.is_frozen(channels) else self._coupling.root(channels)
