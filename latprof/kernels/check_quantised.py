"""Do the operators in INT8 compute what plain integers do? Random layers, reckoned by both.

The reference follows `source/byte_arithmetic.h`: integer sums, one product with the scale in FP32,
one with the residual's, their sum, the nearest number with ties to even.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from latprof.kernels.check import ACTIVATIONS, Layer, drop_taps, random_window, run
from latprof.kernels.convert import convert
from latprof.kernels.encode import BYTES_BLOCK
from latprof.kernels.quantised import Scale
from latprof.kernels.step import Activation

_OPSET, _IR = 17, 8
_CURVED = {
    "LeakyRelu": Activation("leaky_relu", 0.1), "Sigmoid": Activation("sigmoid"),
    "HardSigmoid": Activation("hard_sigmoid", 0.2, 0.5), "HardSwish": Activation("hard_swish"),
}  # fmt: skip


@dataclass(frozen=True)
class QuantisedCase(Layer):
    """One in INT8, weights INT8 and bias INT32, with what follows it."""

    scale: np.ndarray  # (out channels,) of weights
    read: Scale
    added: Scale | None  # of a residual
    before: Scale  # of what an activation reads, where it is curved
    written: Scale

    def feed(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Inputs that fall beyond both ends of their scales now and then."""
        shapes = self.shapes(self.added is not None)
        return {n: 2 * rng.standard_normal(s, dtype=np.float32) for n, s in shapes.items()}

    def model(self) -> onnx.ModelProto:
        """As ONNX Runtime's quantiser writes it."""
        graph = _Qdq()
        x = graph.pair("input", self.read)
        bias_scale = (np.float32(self.read.scale) * self.scale).astype(np.float32)
        weight = graph.constant("weight", self.weight, self.scale)
        bias = graph.constant("bias", self.bias, bias_scale)
        last = graph.node("Conv", [x, weight, bias], "conv", **self.window())
        if self.added:
            last = graph.pair(last, self.before)
            last = graph.node("Add", [last, graph.pair("residual", self.added)], "sum")
        if self.activation:
            last = graph.pair(last, self.before) if self.activation in _CURVED else last
            last = graph.node(self.activation, [last], "active", **ACTIVATIONS[self.activation])
        last = graph.pair(last, self.written)
        shapes = self.shapes(self.added is not None)
        inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()]
        output = helper.make_tensor_value_info(last, TensorProto.FLOAT, self.out_shape)
        made = helper.make_graph(graph.nodes, "case", inputs, [output], graph.weights)
        opsets = [helper.make_opsetid("", _OPSET)]
        return helper.make_model(made, opset_imports=opsets, ir_version=_IR)


class _Qdq:
    """Nodes and constants of a quantised graph."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def node(self, op: str, inputs: list[str], output: str, **attributes) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def _store(self, name: str, value: np.ndarray | np.generic) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def pair(self, name: str, scale: Scale) -> str:
        parts = [
            self._store(f"{name}/scale", np.float32(scale.scale)),
            self._store(f"{name}/zero", np.uint8(scale.zero)),
        ]
        quantised = self.node("QuantizeLinear", [name, *parts], f"{name}/quantised")
        return self.node("DequantizeLinear", [quantised, *parts], f"{name}/again")

    def constant(self, name: str, values: np.ndarray, scale: np.ndarray) -> str:
        zeros = np.zeros(len(values), values.dtype)
        parts = [self._store(f"{name}/{part}", value) for part, value in
                 (("values", values), ("scale", scale), ("zero", zeros))]  # fmt: skip
        return self.node("DequantizeLinear", parts, name, axis=0)


def expected(case: QuantisedCase, feed: dict[str, np.ndarray]) -> np.ndarray:
    """What the operators must give, to the last bit."""
    steps = _sums(case, feed["input"]).astype(np.float32)
    final = case.before if case.activation in _CURVED else case.written
    scale = (np.float64(case.read.scale) * case.scale.astype(np.float64) / final.scale).astype(
        np.float32
    )
    steps = steps * scale.reshape(1, -1, 1, 1)
    if case.added:
        other = case.added.quantised(feed["residual"]).astype(np.float32) - case.added.zero
        steps = steps + other * np.float32(case.added.scale / final.scale)
    low = final.zero if case.activation == "Relu" else 0
    steps = np.clip(steps, low - final.zero, 255 - final.zero)
    found = (np.rint(steps) + final.zero).astype(np.uint8)
    if case.activation in _CURVED:
        found = case.written.quantised(_CURVED[case.activation](case.before.values()))[found]
    return case.written.values()[found]


def _sums(case: QuantisedCase, x: np.ndarray) -> np.ndarray:
    """The convolution in integers: (images, out channels, height, width)."""
    top, left, bottom, right = case.pads
    steps = case.read.quantised(x).astype(np.int64) - case.read.zero
    padded = np.pad(steps, ((0, 0), (0, 0), (top, bottom), (left, right)))
    height, width = case.out_size
    of_group, out_of_group = case.weight.shape[1], len(case.weight) // case.groups
    sums = np.zeros((case.batch, len(case.weight), height, width), np.int64)
    sums += case.bias.reshape(1, -1, 1, 1)
    for y in range(case.weight.shape[2]):
        for z in range(case.weight.shape[3]):
            rows = slice(y * case.dilation[0], None, case.stride[0])
            columns = slice(z * case.dilation[1], None, case.stride[1])
            seen = padded[:, :, rows, columns][:, :, :height, :width]
            for group in range(case.groups):
                inputs = seen[:, group * of_group : (group + 1) * of_group]
                outputs = slice(group * out_of_group, (group + 1) * out_of_group)
                weight = case.weight[outputs, :, y, z].astype(np.int64)
                sums[:, outputs] += np.einsum("oi,nihw->nohw", weight, inputs)
    return sums


def is_exact(case: QuantisedCase, rng: np.random.Generator, threads: int = 1) -> bool:
    """Whether the operators give what is expected, to the last bit."""
    feed = case.feed(rng)
    return np.array_equal(run(convert(case.model()), feed, threads), expected(case, feed))


def random_case(rng: np.random.Generator) -> QuantisedCase:
    """Any layer that can be: odd channels, groups, uneven padding, maps of one pixel."""
    groups = int(rng.choice([1, 1, 1, 2, 0, 0]))  # 0: depthwise
    in_channels, out_channels = (int(n) for n in rng.integers(1, 40, 2))
    if groups == 0:
        in_channels = max(in_channels, 2)
        groups = out_channels = in_channels
    elif groups > 1:
        in_channels, out_channels = in_channels * groups, out_channels * groups
    is_depthwise = groups == in_channels == out_channels > 1
    window = random_window(rng, (3, 3) if is_depthwise and rng.random() < 0.7 else None)
    shape = (out_channels, in_channels // groups, *window.pop("kernel"))
    weight = rng.integers(-127, 128, shape).astype(np.int8)
    if groups in (1, in_channels) or rng.random() < 0.5:
        drop_taps(weight, float(rng.uniform(0, 1)), BYTES_BLOCK, rng)
    activation = ["", "", "Relu", *_CURVED][rng.integers(0, 3 + len(_CURVED))]
    adds = not is_depthwise and rng.random() < 0.4
    wide = float(np.sqrt(np.prod(shape[1:]))) * 60 * 0.02  # of outputs, roughly
    return QuantisedCase(
        weight=weight,
        scale=rng.uniform(0.005, 0.03, out_channels).astype(np.float32),
        bias=rng.integers(-3000, 3000, out_channels).astype(np.int32),
        groups=groups,
        **window,
        batch=int(rng.integers(1, 4)),
        activation=activation,
        read=_scale(rng, 4.0),
        added=_scale(rng, 4.0) if adds else None,
        before=_scale(rng, wide),
        written=_scale(rng, 4.0 if activation in _CURVED else wide),
    )  # fmt: skip


def _scale(rng: np.random.Generator, wide: float) -> Scale:
    zero = (0, 128, int(rng.integers(0, 256)))[rng.integers(0, 3)]
    return Scale(float(np.float32(wide / 255 * rng.uniform(0.5, 2))), zero)
