"""Nodes of plain ONNX → steps, each one operator or a node that stays as it was.

Convolutions take normalisation, addition and activation behind them along.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from onnx import NodeProto

from latprof.kernels.graph import Graph, attributes
from latprof.kernels.step import Activation, Step, Window

_ACTIVATE = ("SparseConv", "DepthwiseConv", "Combine")  # operators that end in an activation


class Fuser:
    """Old nodes → steps; every node belongs to one."""

    def __init__(self, graph: Graph, plain: set[str]) -> None:
        self.graph, self.plain = graph, plain
        self._position = {id(node): i for i, node in enumerate(graph.nodes)}
        self._taken: set[int] = set()
        self._blocked: set[str] = set()  # tensors that operators write

    def steps(self) -> list[Step]:
        placed: dict[int, Step] = {}
        # The later of two convolutions that are added takes the addition along.
        for node in reversed(self.graph.nodes):
            if id(node) in self._taken or (step := self._convolution(node)) is None:
                continue
            before = {*self._taken}
            last = self._chain(node, step)
            if self.graph.can_run(step):
                placed[self._position[id(last)]] = step
            else:
                self._taken = before
        self._blocked = {step.output for step in placed.values()}
        for i, node in enumerate(self.graph.nodes):
            if id(node) in self._taken or node.op_type == "Constant":
                continue
            before, step = {*self._taken}, self._other(node)
            last = self._chain(node, step, adds=False) if step else node
            if step is None or not self.graph.can_run(step):
                self._taken = before | {id(node)}
                placed[i] = Step("", node.name, list(node.input), node.output[0], node=node)
                continue
            placed[self._position[id(last)]] = step
            self._blocked.add(step.output)
        return [placed[i] for i in sorted(placed)]

    def _convolution(self, node: NodeProto) -> Step | None:
        """A convolution that an operator can run."""
        if node.op_type != "Conv" or node.name in self.plain:
            return None
        before, after = self.graph.map_of(node.input[0]), self.graph.map_of(node.output[0])
        weight = self.graph.constant(node.input[1])
        bias = self.graph.constant(node.input[2]) if len(node.input) > 2 else np.zeros(0)
        if before is None or after is None or weight is None or bias is None:
            return None
        if weight.ndim != 4 or weight.dtype != np.float32:
            return None
        options = attributes(node)
        window = _window(options, weight.shape[2:], before[1:], after[1:])
        if window is None:
            return None
        groups = options.get("group", 1)
        depthwise = groups == before[0] == after[0] > 1
        return Step(
            "DepthwiseConv" if depthwise else "SparseConv",
            node.name or node.output[0],
            [node.input[0]],
            node.output[0],
            window=window,
            weight=weight,
            bias=bias.astype(np.float32) if bias.size else np.zeros(after[0], np.float32),
            groups=groups,
            source=node,
        )

    def _chain(self, node: NodeProto, step: Step, adds: bool = True) -> NodeProto:
        """Take along what follows a node: its normalisation, an addition, its activation."""
        self._taken.add(id(node))
        last = node
        while step.weight.size and self.graph.folds and (after := self._scaled(step)):
            last = self._take(after, step)
        if adds and step.op == "SparseConv" and (added := self._added(step)):
            after, other = added
            step.inputs.append(other)
            last = self._take(after, step)
        takes_it = step.op in _ACTIVATE and step.activation == Activation()
        found = self._activated(step.output) if takes_it else None
        if found and self.graph.may_end_in(step, found[1]):
            step.before = step.output
            nodes, step.activation = found
            for after in nodes:
                last = self._take(after, step)
        return last

    def _take(self, node: NodeProto, step: Step) -> NodeProto:
        self._taken.add(id(node))
        step.output = node.output[0]
        return node

    def _scaled(self, step: Step) -> NodeProto | None:
        """A node of constants behind a convolution, folded into its weights."""
        node = self.graph.only_reader(step.output)
        if node is None or node.name in self.plain or id(node) in self._taken:
            return None
        channels = len(step.weight)
        if node.op_type == "BatchNormalization" and node.input[0] == step.output:
            parts = [self.graph.constant(name) for name in node.input[1:5]]
            if any(part is None for part in parts) or attributes(node).get("training_mode"):
                return None
            scale, shift = _normalisation(parts, attributes(node).get("epsilon", 1e-5))
        elif node.op_type in ("Add", "Mul") and len(set(node.input)) == 2:
            (other,) = (name for name in node.input if name != step.output)
            value = self.graph.constant(other)
            if value is None or not _per_channel(value, channels):
                return None
            each = np.broadcast_to(value.reshape(-1), channels).astype(np.float64)
            neutral = np.ones(channels) if node.op_type == "Add" else np.zeros(channels)
            scale, shift = (neutral, each) if node.op_type == "Add" else (each, neutral)
        else:
            return None
        step.weight = (step.weight * scale.reshape(-1, 1, 1, 1)).astype(np.float32)
        step.bias = (step.bias * scale + shift).astype(np.float32)
        return node

    def _added(self, step: Step) -> tuple[NodeProto, str] | None:
        node = self.graph.only_reader(step.output)
        if node is None or node.op_type not in ("Add", "Sum") or node.name in self.plain:
            return None
        if id(node) in self._taken or len(node.input) != 2 or node.input[0] == node.input[1]:
            return None
        (other,) = (name for name in node.input if name != step.output)
        return (node, other) if self._alike(step.output, other) else None

    def _alike(self, one: str, other: str) -> bool:
        """Whether two tensors are maps of one shape, for as many images; constants are not."""
        known = [self.graph.map_of(name) for name in (one, other)]
        computed = not {one, other} & {*self.graph.constants}
        return computed and None not in known and self.graph.shapes[one] == self.graph.shapes[other]

    def _activated(self, tensor: str) -> tuple[list[NodeProto], Activation] | None:
        """The nodes that are an activation of a tensor, if nothing else reads it."""
        if tensor in self.graph.outputs or self.graph.map_of(tensor) is None:
            return None
        readers = self.graph.readers[tensor]
        if any(id(node) in self._taken or node.name in self.plain for node in readers):
            return None
        if len(readers) == 1:
            found = self._one_node(readers[0])
            return ([readers[0]], found) if found else None
        if len(readers) != 2:
            return None
        gates = [node for node in readers if node.op_type in ("Sigmoid", "HardSigmoid")]
        products = [node for node in readers if node.op_type == "Mul"]
        if len(gates) != 1 or len(products) != 1:
            return None
        (gate,), (product,) = gates, products
        if {*product.input} != {tensor, gate.output[0]}:
            return None
        if self.graph.only_reader(gate.output[0]) is None:
            return None
        kind = self._one_node(gate)
        if kind == Activation("sigmoid"):
            return [gate, product], Activation("silu")
        if kind and abs(kind.alpha - 1 / 6) < 1e-6 and kind.beta == 0.5:
            return [gate, product], Activation("hard_swish")
        return None

    def _one_node(self, node: NodeProto) -> Activation | None:
        options = attributes(node)
        match node.op_type:
            case "Relu":
                return Activation("clip", 0.0, math.inf)
            case "Clip":
                bounds = [options.get("min", -math.inf), options.get("max", math.inf)]
                for i, name in enumerate(node.input[1:3]):
                    value = self.graph.constant(name) if name else None
                    if name and (value is None or value.size != 1):
                        return None
                    bounds[i] = float(value.reshape(())) if value is not None else bounds[i]
                return Activation("clip", *bounds)
            case "LeakyRelu":
                return Activation("leaky_relu", options.get("alpha", 0.01))
            case "Sigmoid":
                return Activation("sigmoid")
            case "HardSigmoid":
                return Activation(
                    "hard_sigmoid", options.get("alpha", 0.2), options.get("beta", 0.5)
                )
            case "HardSwish":
                return Activation("hard_swish")
        return None

    def _other(self, node: NodeProto) -> Step | None:
        """A node that only moves maps or combines them, if it reads one that operators wrote."""
        after = self.graph.map_of(node.output[0]) if node.output else None
        inputs = [name for name in node.input if name and name not in self.graph.constants]
        if after is None or node.name in self.plain or len(node.output) != 1:
            return None
        if not any(name in self._blocked for name in inputs):
            return None
        maps = [self.graph.map_of(name) for name in inputs]
        if any(each is None for each in maps):
            return None
        name, before, options = node.name or node.output[0], maps[0], attributes(node)
        assert before is not None
        step = Step("", name, inputs, node.output[0])
        match node.op_type:
            case "MaxPool" | "AveragePool":
                kernel = tuple(options["kernel_shape"])
                window = _window(options, kernel, before[1:], after[1:])
                if window is None:
                    return None
                largest = node.op_type == "MaxPool"
                counts = options.get("count_include_pad", 0)
                pooled = {"largest": int(largest), "counts_padding": counts}
                return replace(step, op="Pool", window=window, options=pooled)
            case "GlobalAveragePool":
                return replace(step, op="GlobalPool")
            case "ReduceMean":
                return replace(step, op="GlobalPool") if self._over_maps(node) else None
            case "Add" | "Sum" | "Mul" if len(inputs) == len(node.input) == 2:
                return self._combined(step, node)
            case "BatchNormalization" if len(inputs) == 1:
                return self._normalised(step, node)
            case "Concat" if options["axis"] in (1, -3) and len(inputs) == len(node.input):
                return (
                    replace(step, op="Concat")
                    if all(each and each[1:] == after[1:] for each in maps)
                    else None
                )
            case "Resize" | "Upsample":
                factors = tuple(b // a for a, b in zip(before[1:], after[1:], strict=True))
                whole = tuple(a * f for a, f in zip(before[1:], factors, strict=True)) == after[1:]
                if not (whole and before[0] == after[0] and _repeats(options)):
                    return None
                if not self._scales_by(node, options, factors):
                    return None
                sizes = {"factor_h": factors[0], "factor_w": factors[1]}
                return replace(step, op="Upsample", options=sizes)
        found = self._one_node(node)
        return replace(step, op="Combine", activation=found) if found else None

    def _normalised(self, step: Step, node: NodeProto) -> Step | None:
        """A normalisation by itself: a depthwise convolution of one pixel."""
        parts = [self.graph.constant(name) for name in node.input[1:5]]
        if any(part is None for part in parts) or attributes(node).get("training_mode"):
            return None
        scale, shift = _normalisation(parts, attributes(node).get("epsilon", 1e-5))
        return replace(
            step,
            op="DepthwiseConv",
            window=Window((1, 1)),
            weight=scale.astype(np.float32).reshape(-1, 1, 1, 1),
            bias=shift.astype(np.float32),
            groups=len(scale),
        )

    def _scales_by(self, node: NodeProto, options: dict, factors: tuple[int, ...]) -> bool:
        """Whether a resize is by these very factors: 9 pixels become 18 by 2.1 as well."""
        scales = options.get("scales")
        at = 2 if node.op_type == "Resize" and len(node.input) > 2 else 1
        if scales is None and len(node.input) > at and node.input[at]:
            constant = self.graph.constant(node.input[at])
            if constant is None:
                return False
            scales = constant.tolist()
        if not scales:  # sizes are given
            return len(node.input) > 3 and bool(node.input[3])
        expected = [1, 1, *factors]
        axes = options.get("axes")
        return list(scales) == (expected if axes is None else [expected[a % 4] for a in axes])

    def _over_maps(self, node: NodeProto) -> bool:
        options = attributes(node)
        axes = options.get("axes")
        if axes is None and len(node.input) > 1:
            value = self.graph.constant(node.input[1])
            axes = value.tolist() if value is not None else None
        return axes is not None and {a % 4 for a in axes} == {2, 3} and options.get("keepdims", 1)

    def _combined(self, step: Step, node: NodeProto) -> Step | None:
        larger, smaller = sorted(step.inputs, key=lambda name: -math.prod(self._map(name)))
        if larger == smaller or self.graph.shapes[larger][0] != self.graph.shapes[smaller][0]:
            return None
        one = self._map(smaller)[1:] == (1, 1) != self._map(larger)[1:]
        if self._map(larger)[0] != self._map(smaller)[0]:
            return None
        if not one and self._map(larger) != self._map(smaller):
            return None
        options = {"multiplies": int(node.op_type == "Mul"), "right_is_one_pixel": int(one)}
        return replace(step, op="Combine", inputs=[larger, smaller], options=options)

    def _map(self, name: str) -> tuple[int, int, int]:
        found = self.graph.map_of(name)
        assert found is not None
        return found


def _window(options: dict, kernel, before, after) -> Window | None:
    """A node's window; None where it does not give the size that the file says."""
    pads = tuple(options.get("pads", (0, 0, 0, 0)))
    stride = tuple(options.get("strides", (1, 1)))
    dilation = tuple(options.get("dilations", (1, 1)))
    auto = options.get("auto_pad", b"NOTSET").decode()
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        pads = _same(auto, before, after, kernel, stride, dilation)
    window = Window(tuple(kernel), stride, pads, dilation)
    return window if window.out_size(before) == after else None


def _same(auto: str, before, after, kernel, stride, dilation) -> tuple[int, int, int, int]:
    pads = [0, 0, 0, 0]
    for i in (0, 1):
        reach = (after[i] - 1) * stride[i] + dilation[i] * (kernel[i] - 1) + 1
        total = max(0, reach - before[i])
        less, more = total // 2, total - total // 2
        pads[i], pads[i + 2] = (less, more) if auto == "SAME_UPPER" else (more, less)
    return pads[0], pads[1], pads[2], pads[3]


def _normalisation(parts, epsilon: float) -> tuple[np.ndarray, np.ndarray]:
    scale, shift, mean, variance = (np.asarray(part, np.float64) for part in parts)
    factor = scale / np.sqrt(variance + epsilon)
    return factor, shift - mean * factor


def _per_channel(value: np.ndarray, channels: int) -> bool:
    """Whether a constant is one number, or one a channel of (batch, channels, height, width)."""
    return value.size == 1 or (value.size == channels and value.shape[-3:] == (channels, 1, 1))


def _repeats(options: dict) -> bool:
    """Whether a resize by whole factors repeats pixels."""
    if options.get("mode", b"nearest") != b"nearest":
        return False
    where = options.get("coordinate_transformation_mode", b"half_pixel")
    rounding = options.get("nearest_mode", b"round_prefer_floor")
    return (where, rounding) in {
        (b"asymmetric", b"floor"), (b"half_pixel", b"round_prefer_floor"),
        (b"half_pixel", b"round_prefer_ceil"), (b"half_pixel_symmetric", b"round_prefer_floor"),
        (b"pytorch_half_pixel", b"round_prefer_floor"),
    }  # fmt: skip
