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
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from pydantic import ValidationError

from lookup_tables.errors import NetworkError
from lookup_tables.graph.blocks import find_blocks, plain_layers
from lookup_tables.layer import WEIGHTED, WRITES_CHANNELS, Size
from lookup_tables.network import INPUT, ChannelGroup, Layer, Network

Handle = Hashable
Segments = tuple[tuple[str, int], ...]  # (class, width) of consecutive channels
_TAKE_ACTIVATIONS = (
    "conv", "depthwise", "linear", "add", "batch_norm", "conv_transpose", "pointwise",
)  # fmt: skip
OF_THE_INPUT = "it is the network's input"
OF_AN_OUTPUT = "the network's output is read as it is"


@dataclass(frozen=True, slots=True)
class Tensor:
    """What flows along one edge: who wrote it, and its channels as (class, width) segments."""

    layer: str
    segments: tuple[tuple[str, int], ...]
    flattened: int = 1  # features that stand for each channel
    last: bool = False  # whether the channels are the last dimension of maps

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
        self._frozen: dict[str, str] = {}  # root → why

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
            self._frozen.setdefault(first, self._frozen[second])

    def freeze(self, name: str, why: str) -> None:
        self._frozen.setdefault(self.root(name), why)

    def why_frozen(self, name: str) -> str | None:
        return self._frozen.get(self.root(name))


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
        self._coupling.freeze(INPUT, OF_THE_INPUT)
        self.written[INPUT] = out
        self.tensors[out] = Tensor(INPUT, ((INPUT, channels),))

    def output(self, source: Handle) -> None:
        """Somebody outside reads this tensor: its channels are never pruned."""
        self._outputs.add(self.tensors[source].layer)
        self._freeze(self.tensors[source].segments, OF_AN_OUTPUT)

    def conv(
        self,
        name: str,
        out: Handle,
        source: Handle,
        channels: int,
        groups: int,
        kind: str = "conv",
        **window: Size | None,
    ) -> None:
        """A convolution, or a transposed one; `window`: its kernel, stride, padding and the like.

        One that reads as many groups as it reads and writes channels is depthwise.
        """
        read = self.tensors[source]
        if kind == "conv" and groups == read.channels == channels and groups > 1:
            self._add(name, "depthwise", out, [source], read.segments, **window)
            return
        segments = ((self._coupling.add(name), channels),)
        if groups > 1:
            why = f"{name} reads its channels in {groups} groups"
            self._freeze((*read.segments, *segments), why)
        self._add(name, kind, out, [source], segments, channels=channels, groups=groups, **window)

    def pointwise(self, name: str, out: Handle, source: Handle, channels: int) -> None:
        """A linear layer at every place of maps whose channels lie last."""
        segments = ((self._coupling.add(name), channels),)
        self._add(name, "pointwise", out, [source], segments, channels=channels)

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

    def meet(self, name: str, kind: str, out: Handle, sources: Sequence[Handle]) -> None:
        """A product or sum of two tensors, the larger one first: the other may be broadcast."""
        self._couple(sources)
        self._add(name, kind, out, sources, self.tensors[sources[0]].segments)

    def concat(self, name: str, out: Handle, sources: Sequence[Handle]) -> None:
        segments = [s for source in sources for s in self.tensors[source].segments]
        self._add(name, "concat", out, sources, segments)

    def each_channel(self, name: str, kind: str, out: Handle, source: Handle, **fields) -> None:
        """A layer that works on every channel alone: a pool, padding, a resize, a scale."""
        self._add(name, kind, out, [source], self.tensors[source].segments, **fields)

    def in_groups(self, name: str, kind: str, out: Handle, source: Handle, groups: int) -> None:
        """A layer that works on groups of neighbouring channels, which none may leave then."""
        segments = self.tensors[source].segments
        if groups > 1:
            self._freeze(segments, f"{name} takes its channels in {groups} groups")
        self._add(name, kind, out, [source], segments, groups=groups)

    def permute(self, name: str, out: Handle, source: Handle) -> None:
        """Channels from the first to the last place of maps, or back."""
        read = self.tensors[source]
        self._add(name, "permute", out, [source], read.segments)
        self.tensors[out] = replace(self.tensors[out], last=not read.last)

    def averaged(self, name: str, kind: str, out: Handle, source: Handle, groups: int = 1) -> None:
        """A norm over channels: each changes with all others, so none may go."""
        segments = self.tensors[source].segments
        self._freeze(segments, f"{name} takes means over its channels")
        self._add(name, kind, out, [source], segments, groups=groups)

    def channel_pad(
        self, name: str, out: Handle, source: Handle, before: int, channels: int
    ) -> None:
        """Zeros before and behind the channels, `channels` in all."""
        why = f"{name} puts channels of zeros beside its own"
        self._freeze(self.tensors[source].segments, why)
        segments = ((self._coupling.add(name), channels),)
        self._freeze(segments, why)
        self._add(name, "channel_pad", out, [source], segments, channels=channels, start=before)

    def slice(self, name: str, out: Handle, source: Handle, start: int, channels: int) -> None:
        """Some consecutive channels of what is read, all of which then stay."""
        why = f"{name} reads a part of its channels"
        self._freeze(self.tensors[source].segments, why)
        segments = ((self._coupling.add(name), channels),)
        self._freeze(segments, why)
        self._add(name, "slice", out, [source], segments, channels=channels, start=start)

    def pixel_shuffle(self, name: str, out: Handle, source: Handle, factor: int) -> None:
        """Groups of factor² channels become the places of maps that much larger."""
        read = self.tensors[source]
        why = f"{name} makes places out of its channels"
        self._freeze(read.segments, why)
        segments = ((self._coupling.add(name), read.channels // factor**2),)
        self._freeze(segments, why)
        fields = {"channels": segments[0][1], "stride": (factor, factor)}
        self._add(name, "pixel_shuffle", out, [source], segments, **fields)

    def flatten(self, out: Handle, source: Handle, features: int | None) -> None:
        """`features` of the flattened tensor; None where the shape stays as it is."""
        tensor = self.tensors[source]
        flattened = tensor.flattened if features is None else features // tensor.channels
        self.tensors[out] = Tensor(tensor.layer, tensor.segments, flattened, tensor.last)
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
        last = kind != "linear" and self.tensors[sources[0]].last
        self.tensors[out] = Tensor(name, tuple(segments), last=last)

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
            if [width for _, width in other] == [1] != [width for _, width in first]:
                self._freeze(other, "its one channel stands for all of another layer's")
            elif [width for _, width in first] == [width for _, width in other]:
                for (a, _), (b, _) in zip(first, other, strict=True):
                    self._coupling.unite(a, b)
            else:
                self._freeze((*first, *other), "it meets channels that come from several layers")

    def tie(self, first: Segments, again: Segments, why: str) -> None:
        """Channels that the same weights read or write: they shrink alike, or not at all."""
        if [width for _, width in first] == [width for _, width in again]:
            for (a, _), (b, _) in zip(first, again, strict=True):
                self._coupling.unite(a, b)
        else:
            self._freeze((*first, *again), why)

    def _freeze(self, segments: Iterable[tuple[str, int]], why: str) -> None:
        for channels, _ in segments:
            self._coupling.freeze(channels, why)

    # -- the result ----------------------------------------------------------------------------

    def network(self, name: str, input_shape: tuple[int, int, int]) -> Network:
        """The layers read so far; raises NetworkError if they do not fit together."""
        groups: dict[str, int] = {}
        for layer in self._layers.values():
            if layer["kind"] in WRITES_CHANNELS:
                group = self.group(layer["name"])
                layer["group"] = group
                if group:
                    groups[group] = layer["channels"]
        try:
            layers = tuple(Layer(**layer) for layer in self._layers.values())
            menus = (ChannelGroup(name=g, width=w, choices=menu(w)) for g, w in groups.items())
            found = Network(
                name=name,
                input_shape=input_shape,
                groups=tuple(menus),
                blocks=find_blocks(layers, self._outputs),
                layers=layers,
            )
            return found.with_blocks((*found.blocks, *plain_layers(found, self._outputs)))
        except ValidationError as error:
            raise NetworkError(
                f"{name} has layers that do not fit together: "
                f"{error.errors()[0]['msg'].removeprefix('Value error, ')}"
            ) from None

    def group(self, channels: str) -> str | None:
        """The group that a layer's channels belong to, None if they are never pruned."""
        return None if self._coupling.why_frozen(channels) else self._coupling.root(channels)

    def kept(self) -> dict[str, str]:
        """The layers whose width cannot be chosen, and why."""
        return {
            name: why
            for name, layer in self._layers.items()
            if layer["kind"] in WEIGHTED & WRITES_CHANNELS
            and (why := self._coupling.why_frozen(name))
        }
