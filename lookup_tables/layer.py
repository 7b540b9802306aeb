"""LayerSpec: one fused layer's shape; the question a table answers and the key of its answer."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Literal

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
]
Activation = Literal[
    "none", "relu", "relu6", "leaky_relu", "sigmoid", "hard_sigmoid", "hard_swish", "silu"
]
WEIGHTED: frozenset[str] = frozenset({"conv", "depthwise", "linear"})

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
    density: Annotated[float, Field(gt=0, le=1)] = 1.0  # share of weights kept

    @property
    def out_size(self) -> Size:
        """(height, width) of the output; an upsample multiplies by its stride."""
        return output_size(self.kind, self.in_size, self.kernel, self.stride, self.padding)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the dense layer; 0 for layers without weights."""
        return macs(
            self.kind, self.in_channels, self.out_channels, self.groups, self.kernel, self.out_size
        )

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


def output_size(kind: str, in_size: Size, kernel: Size, stride: Size, padding: Padding) -> Size:
    """(height, width) that a layer of this geometry writes."""
    if kind in ("global_avg_pool", "linear"):
        return (1, 1)
    if kind == "upsample":
        return (in_size[0] * stride[0], in_size[1] * stride[1])
    height, width = (
        (size + 2 * pad - k) // step + 1
        for size, k, step, pad in zip(in_size, kernel, stride, padding, strict=True)
    )
    return (height, width)


def macs(kind, in_channels, out_channels, groups, kernel: Size, out_size: Size):
    """Multiply-accumulates; channel counts may be numbers or arrays of them."""
    if kind not in WEIGHTED:
        return 0 * out_channels
    per_output = kernel[0] * kernel[1] * out_size[0] * out_size[1]
    if kind == "depthwise":
        return out_channels * per_output
    return in_channels * out_channels * per_output // groups
