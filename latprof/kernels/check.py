"""Do the operators compute what ONNX Runtime's own do? Random layers, run by both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from latprof.kernels import BLOCKS
from latprof.kernels.convert import convert
from latprof.kernels.session import register

MOST_OFF = 1e-4  # of the largest output: sums are in another order
ACTIVATIONS: dict[str, dict[str, Any]] = {
    "": {}, "Relu": {}, "LeakyRelu": {"alpha": 0.1}, "Sigmoid": {}, "HardSigmoid": {"alpha": 0.2},
    "HardSwish": {},
}  # fmt: skip
_OPSET, _IR = 17, 8


@dataclass(frozen=True)
class Layer:
    """Any convolution; sizes are (height, width)."""

    weight: np.ndarray  # (out channels, in channels / groups, height, width)
    bias: np.ndarray
    groups: int
    stride: tuple[int, int]
    pads: tuple[int, int, int, int]  # top, left, bottom, right
    dilation: tuple[int, int]
    size: tuple[int, int]
    batch: int
    activation: str

    @property
    def in_channels(self) -> int:
        return self.weight.shape[1] * self.groups

    @property
    def out_size(self) -> tuple[int, int]:
        height, width = (
            (self.size[i] + self.pads[i] + self.pads[i + 2]
             - self.dilation[i] * (self.weight.shape[2 + i] - 1) - 1) // self.stride[i] + 1
            for i in (0, 1)
        )  # fmt: skip
        return height, width

    @property
    def out_shape(self) -> tuple[int, ...]:
        return (self.batch, len(self.weight), *self.out_size)

    def shapes(self, adds: bool) -> dict[str, tuple[int, ...]]:
        """Of the inputs; `adds`: a residual too."""
        shapes: dict[str, tuple[int, ...]] = {"input": (self.batch, self.in_channels, *self.size)}
        return shapes | ({"residual": self.out_shape} if adds else {})

    def window(self) -> dict[str, Any]:
        """The attributes of its node."""
        return {
            "kernel_shape": self.weight.shape[2:], "strides": self.stride, "pads": self.pads,
            "dilations": self.dilation, "group": self.groups,
        }  # fmt: skip


@dataclass(frozen=True)
class Case(Layer):
    """One in FP32, with what follows it."""

    residual: bool
    block: int

    def model(self) -> onnx.ModelProto:
        """As plain ONNX."""
        names = ["input", "weight", "bias"]
        nodes = [helper.make_node("Conv", names, ["conv"], name="conv", **self.window())]
        last = "conv"
        if self.residual:
            nodes.append(helper.make_node("Add", [last, "residual"], ["sum"], name="add"))
            last = "sum"
        if self.activation:
            options = ACTIVATIONS[self.activation]
            nodes.append(
                helper.make_node(self.activation, [last], ["active"], name="act", **options)
            )
            last = "active"
        shapes, out_shape = self.shapes(self.residual), self.out_shape
        graph = helper.make_graph(
            nodes, "case",
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()],
            [helper.make_tensor_value_info(last, TensorProto.FLOAT, out_shape)],
            [numpy_helper.from_array(self.weight, "weight"),
             numpy_helper.from_array(self.bias, "bias")],
        )  # fmt: skip
        opsets = [helper.make_opsetid("", _OPSET)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=_IR)

    def feed(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        shapes = self.shapes(self.residual)
        return {n: rng.standard_normal(s, dtype=np.float32) for n, s in shapes.items()}


def random_case(rng: np.random.Generator) -> Case:
    """Any layer that can be: odd channels, groups, uneven padding, maps of one pixel."""
    groups = int(rng.choice([1, 1, 1, 2, 3, 0]))  # 0: depthwise
    in_channels = int(rng.integers(1, 40))
    out_channels = int(rng.integers(1, 40))
    if groups == 0:
        groups = out_channels = in_channels
    elif groups > 1:
        in_channels, out_channels = in_channels * groups, out_channels * groups
    window = random_window(rng)
    shape = (out_channels, in_channels // groups, *window.pop("kernel"))
    weight = rng.standard_normal(shape, dtype=np.float32)
    block = int(rng.choice(BLOCKS))
    if groups in (1, in_channels) or rng.random() < 0.5:
        drop_taps(weight, float(rng.uniform(0, 1)), block, rng)
    return Case(
        weight=weight,
        bias=rng.standard_normal(out_channels, dtype=np.float32),
        groups=groups,
        **window,
        batch=int(rng.integers(1, 4)),
        activation=str(rng.choice([*ACTIVATIONS])),
        residual=bool(rng.random() < 0.4),
        block=block,
    )  # fmt: skip


def random_window(
    rng: np.random.Generator, kernel: tuple[int, int] | None = None
) -> dict[str, Any]:
    """A kernel, any where none is given, and a map that it fits on, as fields of a Layer."""
    if kernel is None:
        kernel = (1, 1) if rng.random() < 0.3 else _two(rng, 1, 5)
    dilation = (1, 1) if rng.random() < 0.7 else _two(rng, 1, 3)
    stride = (1, 1) if rng.random() < 0.5 else _two(rng, 1, 3)
    pads = (*_two(rng, 0, 3), *_two(rng, 0, 3))
    least = [dilation[i] * (kernel[i] - 1) + 1 - pads[i] - pads[i + 2] for i in (0, 1)]
    more = _two(rng, 0, 23)
    size = (max(1, least[0]) + more[0], max(1, least[1]) + more[1])
    return {"kernel": kernel, "stride": stride, "pads": pads, "dilation": dilation, "size": size}


def _two(rng: np.random.Generator, low: int, high: int) -> tuple[int, int]:
    return int(rng.integers(low, high + 1)), int(rng.integers(low, high + 1))


def drop_taps(weight: np.ndarray, share: float, block: int, rng: np.random.Generator) -> None:
    """Keep a random share of a weight's taps, by blocks of output channels; in place."""
    flat = weight.reshape(len(weight), -1)
    for start in range(0, len(flat), block):
        flat[start : start + block, rng.random(flat.shape[1]) >= share] = 0


def difference(case: Case, rng: np.random.Generator, threads: int = 1) -> float:
    """The largest difference between both runtimes' outputs, relative to the largest output."""
    feed = case.feed(rng)
    expected, found = (run(model, feed, threads) for model in (case.model(), converted(case)))
    return float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max()))


def converted(case: Case) -> onnx.ModelProto:
    """The case on the operators; a convolution alone is as much a network as any."""
    return convert(case.model(), case.block)


def run(model: onnx.ModelProto, feed: dict[str, np.ndarray], threads: int = 1) -> np.ndarray:
    """The first output of a model, which may use the operators or not."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return ort.InferenceSession(
        model.SerializeToString(), register(options), providers=["CPUExecutionProvider"]
    ).run(None, feed)[0]
