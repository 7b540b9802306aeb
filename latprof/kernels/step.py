"""What a network is rewritten in: steps, each one operator or a node that stays as it was."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from onnx import NodeProto

# In the order of `Kind` in source/activation.h.
ACTIVATIONS = ("none", "clip", "leaky_relu", "sigmoid", "hard_sigmoid", "hard_swish", "silu")


@dataclass(frozen=True)
class Activation:
    """One of ACTIVATIONS; `alpha` and `beta` as that file says."""

    kind: str = "none"
    alpha: float = 0.0
    beta: float = 0.0

    @property
    def curved(self) -> bool:
        """Whether it is more than a bound on either side."""
        return self.kind not in ("none", "clip")

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Of FP32 values, as the operators compute it."""
        match self.kind:
            case "clip":
                return np.clip(x, self.alpha, self.beta)
            case "leaky_relu":
                return np.where(x < 0, x * self.alpha, x)
            case "sigmoid":
                return 1 / (1 + np.exp(-x))
            case "hard_sigmoid":
                return np.clip(x * self.alpha + self.beta, 0, 1)
            case "hard_swish":
                return x * np.clip(x / 6 + 0.5, 0, 1)
            case "silu":
                return x / (1 + np.exp(-x))
        return x


@dataclass(frozen=True)
class Window:
    """How a kernel slides: heights first; `pads` are top, left, bottom, right."""

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)

    def out_size(self, size: tuple[int, int]) -> tuple[int, int]:
        height, width = (
            (n + self.pads[i] + self.pads[i + 2] - self.dilation[i] * (self.kernel[i] - 1) - 1)
            // self.stride[i]
            + 1
            for i, n in enumerate(size)
        )
        return height, width

    def border(self, size: tuple[int, int]) -> int:
        """How far taps reach beyond a map of this (height, width), on any side."""
        out = self.out_size(size)
        far = [
            (out[i] - 1) * self.stride[i]
            - self.pads[i]
            + (self.kernel[i] - 1) * self.dilation[i]
            - (size[i] - 1)
            for i in (0, 1)
        ]
        return max(0, *self.pads[:2], *far)

    def attributes(self) -> dict[str, int]:
        names = ("kernel", "stride", "dilation")
        both = {f"{name}_{axis}": getattr(self, name)[i] for name in names
                for i, axis in enumerate("hw")}  # fmt: skip
        sides = ("top", "left", "bottom", "right")
        return both | {f"pad_{side}": n for side, n in zip(sides, self.pads, strict=True)}


@dataclass
class Step:
    """One node of the new graph: a plain one as it was, or an operator."""

    op: str  # of the domain; empty for plain nodes
    name: str
    inputs: list[str]  # tensors of the old graph, weights left out
    output: str
    node: NodeProto | None = None
    window: Window | None = None
    activation: Activation = Activation()
    weight: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))  # of convolutions
    bias: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    groups: int = 1
    options: dict[str, int] = field(default_factory=dict)
    source: NodeProto | None = None  # of convolutions: the node with their weights
    before: str = ""  # the tensor that the activation reads, where there is one
