"""A quantised network (QDQ, as ONNX Runtime's quantiser writes it) as the float network behind it.

Activations go through a QuantizeLinear and a DequantizeLinear, weights and biases through a
DequantizeLinear. Seen without them it is a plain network whose tensors have scales; what the
operators do not run keeps them.

Deviation from what the file says: a convolution that takes an addition along is not rounded in
between.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto

from latprof.kernels.graph import Graph, attributes
from latprof.kernels.step import Activation, Step


@dataclass(frozen=True)
class Scale:
    """A byte q of a map stands for scale · (q − zero)."""

    scale: float
    zero: int

    def quantised(self, values: np.ndarray | np.generic) -> np.ndarray:
        """FP32 → UINT8, rounded to the nearest, ties to even."""
        steps = np.rint(np.asarray(values, np.float32) / np.float32(self.scale)) + self.zero
        return np.clip(np.nan_to_num(steps), 0, 255).astype(np.uint8)

    def values(self) -> np.ndarray:
        """What every byte stands for: (256,) FP32."""
        return (np.arange(256) - self.zero).astype(np.float32) * np.float32(self.scale)


@dataclass(frozen=True)
class Integers:
    """Weights: INT8 of (out channels, …), with a scale for every output channel."""

    values: np.ndarray
    scale: np.ndarray  # (out channels,)


def is_quantised(model: onnx.ModelProto) -> bool:
    """Whether any activation of a model goes through a QuantizeLinear."""
    return any(node.op_type == "QuantizeLinear" for node in model.graph.node)


class QuantisedGraph(Graph):
    """The float network behind a quantised one.

    `nodes` are those between the pairs, reading the tensors before them. `scales` has the tensors
    whose every reader is a pair; `integers` the weights, under the names of their float forms.
    """

    folds = False

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__(model)
        self.scales: dict[str, Scale] = {}
        self.integers: dict[str, Integers] = {}
        self.pairs: dict[str, tuple[NodeProto, NodeProto]] = {}  # by what the second one writes
        self.dequantised: dict[str, NodeProto] = {}  # of constants, by what they write
        self.original: dict[int, NodeProto] = {}  # by the view's nodes
        self._find_pairs()
        self._find_constants()
        self._without_pairs()

    def can_run(self, step: Step) -> bool:
        """Whether all that a step reads and writes has a scale, and its weights are INT8."""
        if not all(name in self.scales for name in (*step.inputs, step.output)):
            return False
        if step.weight.size and (step.source is None or not self._has_weights(step.source)):
            return False
        if step.before and step.activation.curved and step.before not in self.scales:
            return False
        if step.op in ("Upsample", "Pool") and step.options.get("largest", 1):
            return self.scales[step.inputs[0]] == self.scales[step.output]
        return True

    def may_end_in(self, step: Step, activation: Activation) -> bool:
        return step.op != "Combine" or not activation.curved

    def bounds(self, activation: Activation, scale: Scale) -> tuple[int, int]:
        """Between which bytes an activation that clips leaves its outputs."""
        if activation.kind != "clip":
            return 0, 255
        low, high = activation.alpha, activation.beta
        return (
            0 if math.isinf(low) else int(scale.quantised(np.float32(low))),
            255 if math.isinf(high) else int(scale.quantised(np.float32(high))),
        )

    # -- finding -------------------------------------------------------------------------------

    def _find_pairs(self) -> None:
        found: dict[str, set[Scale]] = {}
        for first in self.nodes:
            scale = self._scale(first) if first.op_type == "QuantizeLinear" else None
            if scale is None or first.output[0] in self.outputs:
                continue
            seconds = self.readers[first.output[0]]
            if any(node.op_type != "DequantizeLinear" or self._scale(node) != scale
                   for node in seconds):  # fmt: skip
                continue  # something reads the bytes themselves
            self.pairs |= {node.output[0]: (first, node) for node in seconds}
            found.setdefault(first.input[0], set()).add(scale)
        firsts = {id(first) for first, _ in self.pairs.values()}
        for name, scales in found.items():
            only_pairs = all(id(reader) in firsts for reader in self.readers[name])
            if len(scales) == 1 and only_pairs and name not in self.outputs:
                (self.scales[name],) = scales

    def _find_constants(self) -> None:
        for node in self.nodes:
            if node.op_type != "DequantizeLinear" or node.input[0] not in self.constants:
                continue
            if any(name not in self.constants for name in node.input):
                continue
            parts = [self.constants[name] for name in node.input]
            values, scale = parts[0], parts[1].astype(np.float32)
            zero = parts[2] if len(parts) > 2 else np.zeros(1, values.dtype)
            axis = attributes(node).get("axis", 1)
            if scale.size > 1 and scale.size != values.shape[axis]:
                continue  # by blocks
            shape = [-1 if i == axis % values.ndim else 1 for i in range(values.ndim)]
            each, zeros = (
                part.reshape(shape) if part.size > 1 else part.reshape(()) for part in (scale, zero)
            )
            name = node.output[0]
            plain = (values.astype(np.float32) - zeros.astype(np.float32)) * each
            self.constants[name] = plain.astype(np.float32)
            self.dequantised[name] = node
            per_output = scale.size == 1 or axis % values.ndim == 0
            if values.dtype == np.int8 and values.ndim == 4 and not zero.any() and per_output:
                self.integers[name] = Integers(
                    values, np.broadcast_to(scale.reshape(-1), len(values)).copy()
                )

    def _without_pairs(self) -> None:
        """`nodes` without what quantises, and reading what was quantised."""
        before = {name: first.input[0] for name, (first, _) in self.pairs.items()}
        self.outputs += [before[name] for name in self.outputs if name in before]
        gone = {id(node) for pair in self.pairs.values() for node in pair}
        gone |= {id(node) for node in self.dequantised.values()}
        view = []
        for node in self.nodes:
            if id(node) in gone:
                continue
            seen = NodeProto()
            seen.CopyFrom(node)
            for i, name in enumerate(seen.input):
                if before.get(name) in self.scales:
                    seen.input[i] = before[name]
            self.original[id(seen)] = node
            view.append(seen)
        self.nodes = view
        self.readers = self._who_reads()

    def _scale(self, node: NodeProto) -> Scale | None:
        """Of a node that quantises a whole tensor to UINT8."""
        scale = self.constants.get(node.input[1])
        zero = self.constants.get(node.input[2]) if len(node.input) > 2 else None
        if scale is None or zero is None or scale.size != 1 or zero.dtype != np.uint8:
            return None
        value = float(np.float32(scale.reshape(())))
        return Scale(value, int(zero.reshape(()))) if 0 < value < math.inf else None

    def _has_weights(self, source: NodeProto) -> bool:
        bias = source.input[2] if len(source.input) > 2 else ""
        return source.input[1] in self.integers and (not bias or bias in self.constants)
