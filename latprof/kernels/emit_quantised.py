"""Steps of a quantised network → the graph on the operators in INT8."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto, TensorProto

from latprof.kernels import CannotConvert
from latprof.kernels.emit import Emitter
from latprof.kernels.encode import BYTES_BLOCK, INPUTS, encode_bytes
from latprof.kernels.graph import fresh, read_inside
from latprof.kernels.quantised import QuantisedGraph, Scale
from latprof.kernels.step import Activation, Step


class QuantisedEmitter(Emitter):
    """Blocked tensors are UINT8; whatever stays plain keeps its QuantizeLinear and Dequantize."""

    element = TensorProto.UINT8
    planar_lanes = INPUTS
    kind = "Q"
    graph: QuantisedGraph

    def __init__(self, graph: QuantisedGraph, steps: list[Step], block: int) -> None:
        """Raises CannotConvert for blocks of another width than BYTES_BLOCK."""
        if block != BYTES_BLOCK:
            raise CannotConvert(
                f"block {block}: a quantised network runs in blocks of {BYTES_BLOCK}"
            )
        super().__init__(graph, steps, block)
        self._emitted: set[str] = set()  # what pairs and constants wrote

    def _emit_plain(self, step: Step) -> None:
        """The node as it was in the file, behind what it reads."""
        assert step.node is not None
        original = self.graph.original[id(step.node)]
        for name in (*original.input, *read_inside(original)):
            self._provide(name)
        self.nodes.append(original)

    def _provide(self, name: str) -> None:
        """Whatever writes a tensor that a plain node or the network's user reads."""
        if name in self._emitted:
            return
        self._emitted.add(name)
        if (constant := self.graph.dequantised.get(name)) is not None:
            self.nodes.append(constant)
        elif (pair := self.graph.pairs.get(name)) is not None:
            first, second = pair
            if first.input[0] in self.written:
                self._leave(first.input[0])
                reading = NodeProto()
                reading.CopyFrom(second)
                reading.input[0] = self._bytes_of(first.input[0])
                self.nodes.append(reading)
                return
            if first.output[0] not in self._emitted:
                self._emitted.add(first.output[0])
                self.nodes.append(first)
            self.nodes.append(second)

    def _leave(self, name: str) -> None:
        """Convert a tensor back to bytes, once, if operators wrote it."""
        if name not in self.written and name in self.graph.outputs:
            self._provide(name)
        self._unblocked(name, self._bytes_of(name))

    def _bytes_of(self, name: str) -> str:
        return fresh(f"{name}/bytes", self.graph.names)

    def _meaning(self, name: str) -> dict[str, int | float]:
        scale = self.graph.scales[name]
        return {"out_scale": scale.scale, "out_zero": scale.zero}

    def _emit(self, step: Step) -> None:
        inputs = [self._blocked(step, number) for number in range(len(step.inputs))]
        attributes = self._geometry(step)
        scale = self.graph.scales[step.output]
        attributes["written_zero"] = scale.zero
        op = step.op
        match op:
            case "SparseConv" | "DepthwiseConv":
                inputs = self._convolution(step, inputs, attributes)
            case "Concat":
                tables = [_table(self.graph.scales[name], scale) for name in step.inputs]
                lookups = self._weight(step, "lookups", np.concatenate(tables))
                inputs = [self._parts(step), lookups, *inputs]
            case "Combine" if len(step.inputs) == 1:
                table = _table(self.graph.scales[step.inputs[0]], scale, step.activation)
                op, inputs = "Lookup", [*inputs, self._weight(step, "lookup", table)]
            case "Combine":
                attributes = self._combined(step, attributes) | self._ends(step.activation, scale)
                left, right = (self.graph.scales[name] for name in step.inputs)
                of_left = left.scale * (right.scale if attributes["multiplies"] else 1)
                attributes |= {"left_scale": of_left / scale.scale, "left_zero": left.zero}
                attributes |= {"right_scale": right.scale / scale.scale, "right_zero": right.zero}
            case "Pool" | "GlobalPool":
                source = self.graph.scales[step.inputs[0]]
                attributes |= self._ends(step.activation, scale)
                attributes |= {"left_scale": source.scale / scale.scale, "left_zero": source.zero}
        self._write(step, op, inputs, attributes)

    def _ends(self, activation: Activation, scale: Scale) -> dict[str, int]:
        """Of a step's outputs before they are looked up: their zero and their bounds."""
        low, high = self.graph.bounds(activation, scale)
        return {"out_zero": scale.zero, "low": low, "high": high}

    def _convolution(self, step: Step, inputs: list[str], attributes: dict) -> list[str]:
        assert step.source is not None
        source, scales = step.source, self.graph.scales
        weights, read = self.graph.integers[source.input[1]], scales[step.inputs[0]]
        written = scales[step.output]
        curved = step.activation.curved
        before = scales[step.before] if curved else written
        attributes |= self._ends(step.activation, before)
        table = _table(before, written, step.activation) if curved else np.zeros(1, np.uint8)
        bias = self._sums(step, weights.values, read, weights.scale)
        scale = (np.float64(read.scale) * weights.scale / before.scale).astype(np.float32)
        tail = [
            self._weight(step, "bias", self._filled(bias)),
            self._weight(step, "scale", self._filled(scale)),
            self._weight(step, "lookup", table),
        ]
        if step.op == "DepthwiseConv":
            taps = self._weight(step, "weights", self._by_places(weights.values))
            return [*inputs, taps, *tail]
        planar, residual = self._planar(step, 0), inputs[1:]
        encoded = encode_bytes(weights.values, step.groups, planar)
        attributes |= {"planar": int(planar), "out_channels": len(weights.values),
                       "residual_border": self._border(step, 1) if residual else 0,
                       "residual_scale": 1.0, "residual_zero": 0}  # fmt: skip
        if residual:
            other = scales[step.inputs[1]]
            attributes |= {"residual_scale": other.scale / before.scale,
                           "residual_zero": other.zero}  # fmt: skip
        kept = [
            self._weight(step, part, value)
            for part, value in zip(("weights", "taps", "starts"), encoded, strict=True)
        ]
        return [inputs[0], *kept, *tail, *residual]

    def _sums(self, step: Step, weights: np.ndarray, read: Scale, scale: np.ndarray) -> np.ndarray:
        """The bias of sums, INT32: that of the file less what the inputs' zero adds."""
        assert step.source is not None
        bias = np.zeros(len(weights), np.int64)
        if len(step.source.input) > 2 and step.source.input[2]:
            name = step.source.input[2]
            node = self.graph.dequantised.get(name)
            if node is not None and self.graph.constants[node.input[0]].dtype == np.int32:
                bias = self.graph.constants[node.input[0]].astype(np.int64)
            else:
                plain = self.graph.constants[name].astype(np.float64)
                bias = np.rint(plain / (read.scale * scale)).astype(np.int64)
        whole = weights.reshape(len(weights), -1).astype(np.int64).sum(axis=1)
        return (bias - read.zero * whole).astype(np.int32)


def _table(before: Scale, after: Scale, activation: Activation | None = None) -> np.ndarray:
    """What becomes of every byte of one scale behind an activation, in another: (256,) UINT8."""
    x = before.values()
    return after.quantised(activation(x) if activation else x)
