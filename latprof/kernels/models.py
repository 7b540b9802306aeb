"""Small networks of one kind of layer, to time the operators by."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from latprof.kernels.check import drop_taps


@dataclass(frozen=True, slots=True)
class Shape:
    """A square convolution: as many channels in as out, on maps of `size` × `size`."""

    channels: int
    size: int
    kernel: int = 3

    def __str__(self) -> str:
        return f"{self.kernel}×{self.kernel}, {self.channels} channels, {self.size}×{self.size}"

    @property
    def macs(self) -> int:
        """Of one dense layer."""
        return (self.channels * self.kernel * self.size) ** 2


# What the layers of ResNets and VGG are like.
SHAPES = tuple(
    Shape(channels, size, kernel)
    for channels, size in ((16, 32), (32, 16), (64, 56), (64, 8), (128, 28), (256, 14), (512, 7),
                           (512, 4))
    for kernel in (3, 1)
)  # fmt: skip
_LONG_MACS, _FEWEST, _MOST = 1e9, 8, 64  # of a chain
_LARGE = 2e7  # weights that a chain has at most, unless it were shorter than _FEWEST


def length(shape: Shape) -> int:
    """How many layers make a chain so long that its ends do not matter."""
    most = min(_MOST, _LARGE / (shape.channels**2 * shape.kernel**2))
    return max(_FEWEST, int(min(_LONG_MACS / shape.macs, most)))


def chain(shape: Shape, density: float = 1.0, block: int = 16, seed: int = 0) -> onnx.ModelProto:
    """`length(shape)` such layers, each with a ReLU, of which a share of the taps is kept."""
    rng = np.random.default_rng(seed)
    nodes, weights, last = [], [], "input"
    taps = (shape.channels, shape.kernel, shape.kernel)
    for i in range(length(shape)):
        weight = rng.standard_normal((shape.channels, *taps), dtype=np.float32)
        weight *= np.float32(math.sqrt(2 / (math.prod(taps) * density)))
        if density < 1:
            drop_taps(weight, density, block, rng)
        weights.append(numpy_helper.from_array(weight, f"w{i}"))
        pads = [shape.kernel // 2] * 4
        nodes.append(helper.make_node("Conv", [last, f"w{i}"], [f"c{i}"], f"conv{i}", pads=pads))
        last = "output" if i == length(shape) - 1 else f"r{i}"
        nodes.append(helper.make_node("Relu", [f"c{i}"], [last], f"relu{i}"))
    dims = [1, shape.channels, shape.size, shape.size]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name in ("input", "output")
    ]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
