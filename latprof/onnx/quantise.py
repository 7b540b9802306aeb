"""A network in INT8, as ONNX Runtime's static quantiser writes it (QDQ), with plausible scales.

What a network takes depends on its nodes, not on the values of its scales, so no image is needed:
profiling quantises hundreds of networks. Weights are INT8 with a scale for every output channel,
activations UINT8 with one for the tensor. ReLU and bounds at 0 and 6 go into the scale of what they
bound, as the quantiser does it; `tests/latprof/test_quantise.py` holds both side by side.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

# What the quantiser quantises, of what networks here are made of.
QUANTISED = {
    "Conv", "Gemm", "Add", "Mul", "Concat", "MaxPool", "AveragePool", "GlobalAveragePool",
    "Flatten", "Resize", "Relu", "Clip", "LeakyRelu", "Sigmoid",
}  # fmt: skip
_SAME_SCALE = {"MaxPool", "AveragePool", "Flatten", "Resize"}  # written as it was read
_BOUNDS = {"Relu", "Clip"}
_WEIGHTED = {"Conv", "Gemm"}
_WIDE = 6.0  # between minus this and this lie activations


def quantise(model: onnx.ModelProto, first_layer: str) -> onnx.ModelProto:
    """The same network with Q and DQ around what the quantiser quantises.

    `model`: as `writer.build` gives it, FP32. Every node that is added has a name that says to
    which layer it belongs: that of the tensor's own; of the input's, `first_layer`.
    """
    return _Quantiser(model, first_layer).model()


class _Quantiser:
    """Nodes and constants of the quantised network, in order."""

    def __init__(self, model: onnx.ModelProto, first_layer: str) -> None:
        self.old, graph = model, model.graph
        self.first_layer = first_layer
        self.inputs = {entry.name for entry in graph.input}
        self.outputs = {entry.name for entry in graph.output}
        self.values = {t.name: t for t in graph.initializer}
        self.readers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self.readers[name].append(node)
        self.scales: dict[str, tuple[float, int]] = {}
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []
        self._again: dict[str, str] = {}  # tensor → what its DequantizeLinear writes

    def model(self) -> onnx.ModelProto:
        graph = self.old.graph
        nodes = self._without_bounds()
        touched = {n for node in nodes if node.op_type in QUANTISED for n in self._maps(node)}
        for name in self.inputs & touched:
            self.scales[name] = _signed()
            self._pair(name, f"{self.first_layer}@{name}")
        for node in nodes:
            made = NodeProto()
            made.CopyFrom(node)
            for i, name in enumerate(node.input):
                made.input[i] = self._again.get(name, name)
            if node.op_type in _WEIGHTED:
                for i, name in enumerate(node.input[1:], start=1):
                    made.input[i] = self._constant(name, node.input[0])
            else:
                self._keep(node)
            self.nodes.append(made)
            (out,) = node.output
            if out in touched:
                self.scales[out] = self._scale(node)
                if out in self.outputs:
                    made.output[0] = f"{out}/plain"
                self._pair(out, out, made.output[0])
        made_graph = helper.make_graph(
            self.nodes, graph.name, list(graph.input), list(graph.output), self.weights
        )
        return helper.make_model(
            made_graph, opset_imports=self.old.opset_import, ir_version=self.old.ir_version
        )

    def _without_bounds(self) -> list[NodeProto]:
        """The nodes without activations that a scale can stand for."""
        nodes: list[NodeProto] = []
        writer: dict[str, NodeProto] = {}
        self.bounded: dict[str, bool] = {}  # what was bounded at 0 → True
        for node in self.old.graph.node:
            source = writer.get(node.input[0]) if node.op_type in _BOUNDS else None
            alone = len(self.readers[node.input[0]]) == 1 and node.input[0] not in self.outputs
            if source is not None and source.op_type in QUANTISED and alone:
                source.output[0] = node.output[0]
                writer[node.output[0]] = source
                self.bounded[node.output[0]] = True
                continue
            copied = NodeProto()
            copied.CopyFrom(node)
            nodes.append(copied)
            for name in copied.output:
                writer[name] = copied
        return nodes

    def _maps(self, node: NodeProto) -> list[str]:
        """What a node reads and writes that is no constant."""
        read = [name for name in node.input if name and name not in self.values]
        return [*read, *node.output]

    def _scale(self, node: NodeProto) -> tuple[float, int]:
        (out,) = node.output
        if node.op_type in _SAME_SCALE:
            return self.scales.get(node.input[0], _signed())
        if node.op_type == "Sigmoid":
            return 1 / 256, 0
        bounded = self.bounded.get(out) or node.op_type in _BOUNDS
        below = [self.scales.get(name, _signed())[1] for name in node.input if name in self.scales]
        if node.op_type in ("Concat", "GlobalAveragePool", "Mul") and below and not any(below):
            bounded = True
        return (_WIDE / 255, 0) if bounded else _signed()

    def _pair(self, name: str, label: str, source: str | None = None) -> None:
        """Q and DQ of a tensor; its readers read what the second one writes."""
        scale, zero = self.scales[name]
        parts = [f"{label}/scale", f"{label}/zero"]
        self.weights.append(numpy_helper.from_array(np.array(scale, np.float32), parts[0]))
        self.weights.append(numpy_helper.from_array(np.array(zero, np.uint8), parts[1]))
        between = f"{label}/quantised"
        again = name if name in self.outputs else f"{label}/again"
        for op, read, written in (
            ("QuantizeLinear", source or name, between),
            ("DequantizeLinear", between, again),
        ):
            self.nodes.append(helper.make_node(op, [read, *parts], [written], name=f"{label}/{op}"))
        self._again[name] = again

    def _keep(self, node: NodeProto) -> None:
        known = {tensor.name for tensor in self.weights}
        for name in node.input:
            if name in self.values and name not in known:
                self.weights.append(self.values[name])

    def _constant(self, name: str, read: str) -> str:
        """The DequantizeLinear of a weight, INT8, or of a bias, INT32 in the sums' scale."""
        values = numpy_helper.to_array(self.values[name])
        if values.ndim > 1:
            flat = values.reshape(len(values), -1)
            largest = np.abs(flat).max(axis=1)
            scale = np.where(largest > 0, largest, 1).astype(np.float32) / np.float32(127)
            whole = np.rint(flat / scale[:, None]).astype(np.int8).reshape(values.shape)
            self._of_weights = scale
        else:
            scale = self._of_weights * np.float32(self.scales[read][0])
            whole = np.rint(values / scale).astype(np.int32)
        parts = [f"{name}/values", f"{name}/scale", f"{name}/zero"]
        for part, value in zip(
            parts, (whole, scale, np.zeros(len(scale), whole.dtype)), strict=True
        ):
            self.weights.append(numpy_helper.from_array(value, part))
        written = f"{name}/dequantised"
        self.nodes.append(
            helper.make_node("DequantizeLinear", parts, [written], name=written, axis=0)
        )
        return written


def _signed() -> tuple[float, int]:
    return 2 * _WIDE / 255, 128
