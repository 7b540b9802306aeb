"""LayerSpec: one fused layer's shape; the question a table answers and the key of its answer."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Annotated, Literal, Protocol

from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

Kind = Literal[
    "conv",
    "depthwise",
    "linear",
    "add",
    "multiply",
    "concat",
    "max_pool",
    "avg_pool",
    "global_avg_pool",
    "upsample",
    "batch_norm",
    "activation",
    "conv_transpose",
    "pointwise",  # a linear layer at every place of maps whose channels lie last
    "permute",  # channels last, or first again
    "layer_norm",  # over the channels of each place, which lie last
    "group_norm",
    "pad",
    "slice",  # some consecutive channels
    "channel_pad",  # channels of zeros before and behind
    "subsample",  # every so many places
    "channel_shuffle",
    "pixel_shuffle",
    "bilinear",
    "scale",  # times a number
    "shift",  # plus a number
    "channel_scale",  # times a number for each channel
    "channel_shift",
]
Activation = Literal[
    "none", "relu", "relu6", "leaky_relu", "sigmoid", "hard_sigmoid", "hard_swish", "silu",
    "gelu", "elu", "tanh", "softplus", "mish", "prelu",
]  # fmt: skip
WEIGHTED: frozenset[str] = frozenset({"conv", "depthwise", "linear", "conv_transpose", "pointwise"})
# Kinds that write as many channels as their layer says; all others pass on what they read.
WRITES_CHANNELS: frozenset[str] = frozenset(
    {"conv", "linear", "conv_transpose", "pointwise", "slice", "channel_pad", "pixel_shuffle"}
)

Positive = Annotated[int, Field(gt=0)]
Size = tuple[Positive, Positive]  # height, width
Padding = tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class LayerSpec:
    """The shape of one layer as the runtime executes it: fused with its activation and addition.

    Channel counts are what the layer really reads and writes; `in_size` is (height, width) of
    its input. Batch, precision and threads are not here: they belong to the Device.
    """

    kind: Kind
    in_channels: Positive
    out_channels: Positive
    in_size: Size
    kernel: Size = (1, 1)
    stride: Size = (1, 1)
    padding: Padding = (0, 0)
    groups: Positive = 1
    activation: Activation = "none"
    residual: bool = False  # adds a second tensor of its output's shape before the activation
    dilation: Size = (1, 1)
    padding_end: Padding | None = None  # at the bottom and right, where it is another
    ceil_mode: bool = False  # of a pool: a last window may lie partly outside
    output_padding: Padding = (0, 0)  # of a transposed convolution
    out_size_given: Size | None = None  # of a bilinear resize
    density: Annotated[float, Field(gt=0, le=1)] = 1.0  # share of weights kept

    @property
    def out_size(self) -> Size:
        """(height, width) of the output; an upsample multiplies by its stride."""
        return output_size(self, self.in_size)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the dense layer; 0 for layers without weights."""
        return macs(self, self.in_channels, self.out_channels, self.in_size)

    @property
    def kept_macs(self) -> float:
        """Multiply-accumulates of the weights that are kept."""
        return self.macs * self.density

    @property
    def family(self) -> tuple:
        """Everything but channel counts and density: layers of one family differ in these only."""
        return tuple(getattr(self, name) for name in _FAMILY)

    def to_json(self) -> dict:
        """The fields that differ from their defaults, as they are written into a table."""
        return _ADAPTER.dump_python(self, mode="json", exclude_defaults=True)

    def __str__(self) -> str:
        size = "×".join(map(str, self.in_size))
        text = f"{self.kind} {self.in_channels}→{self.out_channels} at {size}"
        if self.kernel != (1, 1):
            text += f" kernel {'×'.join(map(str, self.kernel))}"
        if self.stride != (1, 1):
            text += f" stride {'×'.join(map(str, self.stride))}"
        if self.density < 1:
            text += f" density {self.density:.3g}"
        return text


_FAMILY = tuple(
    field.name
    for field in fields(LayerSpec)
    if field.name not in ("in_channels", "out_channels", "density")
)
_ADAPTER = TypeAdapter(LayerSpec)


class Window(Protocol):
    """What a layer's output size and multiplications follow from."""

    @property
    def kind(self) -> Kind: ...
    @property
    def kernel(self) -> Size: ...
    @property
    def stride(self) -> Size: ...
    @property
    def padding(self) -> Padding: ...
    @property
    def padding_end(self) -> Padding | None: ...
    @property
    def dilation(self) -> Size: ...
    @property
    def ceil_mode(self) -> bool: ...
    @property
    def output_padding(self) -> Padding: ...
    @property
    def out_size_given(self) -> Size | None: ...
    @property
    def groups(self) -> int: ...


def output_size(layer: Window, in_size: Size) -> Size:
    """(height, width) that a layer of this geometry writes."""
    kind, (height, width), (down, across) = layer.kind, in_size, layer.stride
    if layer.out_size_given is not None:
        return layer.out_size_given
    if kind in ("global_avg_pool", "linear"):
        return (1, 1)
    if kind in ("upsample", "pixel_shuffle"):
        return (height * down, width * across)
    rows, columns = (_along(layer, kind, size, axis) for axis, size in enumerate((height, width)))
    return (rows, columns)


def _along(layer: Window, kind: str, size: int, axis: int) -> int:
    """One dimension of the output (PyTorch's formulas of Conv2d, ConvTranspose2d, MaxPool2d)."""
    step, before = layer.stride[axis], layer.padding[axis]
    after = before if layer.padding_end is None else layer.padding_end[axis]
    reach = layer.dilation[axis] * (layer.kernel[axis] - 1) + 1
    if kind == "conv_transpose":
        return (size - 1) * step - before - after + reach + layer.output_padding[axis]
    places = size + before + after - reach
    if not layer.ceil_mode:
        return places // step + 1
    last = -(-places // step)
    if last * step >= size + before:  # it would lie outside altogether
        last -= 1
    return last + 1


def macs(layer: Window, in_channels, out_channels, in_size: Size):
    """Multiply-accumulates; channel counts may be numbers or arrays of them."""
    if layer.kind not in WEIGHTED:
        return 0 * out_channels
    places = math.prod(in_size if layer.kind == "conv_transpose" else output_size(layer, in_size))
    per_output = layer.kernel[0] * layer.kernel[1] * places
    return _connections(layer, in_channels, out_channels) * per_output


def weights(layer: Window, in_channels, out_channels, in_size: Size):
    """How many weights, biases not counted; as `macs`, whatever the size of the maps."""
    if layer.kind not in WEIGHTED:
        return 0 * out_channels
    return _connections(layer, in_channels, out_channels) * layer.kernel[0] * layer.kernel[1]


def _connections(layer: Window, in_channels, out_channels):
    """Pairs of channels that a tap of the kernel connects."""
    if layer.kind == "depthwise":
        return out_channels
    return in_channels * out_channels // layer.groups
