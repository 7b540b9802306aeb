"""A network of plain ONNX, rewritten for the operators; what they do not know stays as it is.

Weights of 0 are left out where a whole tap of a block is 0; nothing else changes. Convolutions take
the addition and the activation behind them along. Wherever a node that stays plain reads a tensor
in the blocked layout, or the other way round, the tensor is converted once.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper, shape_inference

from latprof.kernels import BLOCKS, DOMAIN, OPSET, VERSION, CannotConvert
from latprof.kernels.encode import encode

# In the order of `Kind` in source/activation.h.
ACTIVATIONS = ("none", "clip", "leaky_relu", "sigmoid", "hard_sigmoid", "hard_swish", "silu")
_ACTIVATE = ("SparseConv", "DepthwiseConv", "Combine")  # operators that end in an activation
MOST_PLANAR = 4  # channels that are not worth a block: a network's input


@dataclass(frozen=True)
class Activation:
    """One of ACTIVATIONS; `alpha` and `beta` as that file says."""

    kind: str = "none"
    alpha: float = 0.0
    beta: float = 0.0


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


def convert(
    model: onnx.ModelProto, block: int = BLOCKS[0], plain: Collection[str] = ()
) -> onnx.ModelProto:
    """The same network on the operators of blocks of so many output channels.

    The batch may be open, height and width may not. `plain`: names of nodes that are to stay.
    Raises CannotConvert where a model has no convolution that they can run.
    """
    if block not in BLOCKS:
        raise CannotConvert(f"block {block}: expected one of {', '.join(map(str, BLOCKS))}")
    if any(entry.domain == DOMAIN for entry in model.opset_import):
        raise CannotConvert("this model uses the operators already")
    graph = _Graph(model)
    for name in plain:
        if name not in {node.name for node in graph.nodes}:
            raise CannotConvert(f"there is no node called {name!r} that could stay plain")
    steps = _Fuser(graph, set(plain)).steps()
    if not any(step.op in ("SparseConv", "DepthwiseConv") for step in steps):
        raise CannotConvert(
            "no convolution of this model can be converted; needed are two-dimensional ones with "
            "constant fp32 weights, and a known height and width"
        )
    return _Emitter(graph, steps, block).model()


class _Graph:
    """The old graph: shapes, constants, who reads what."""

    def __init__(self, model: onnx.ModelProto) -> None:
        model = _spelled_out(_with_shapes(model))
        self.model, graph = model, model.graph
        self.nodes = list(graph.node)
        self.outputs = [output.name for output in graph.output]
        self.constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        self.types: dict[str, int] = {}
        self.shapes: dict[str, tuple[int | None, ...]] = {}
        for entry in (*graph.input, *graph.value_info, *graph.output):
            tensor = entry.type.tensor_type
            self.types[entry.name] = tensor.elem_type
            if tensor.HasField("shape"):
                self.shapes[entry.name] = tuple(d.dim_value or None for d in tensor.shape.dim)
        for node in self.nodes:
            if node.op_type == "Constant":
                (value,) = node.attribute
                content = helper.get_attribute_value(value)
                if value.name == "sparse_value":
                    continue
                is_tensor = isinstance(content, TensorProto)
                self.constants[node.output[0]] = (
                    numpy_helper.to_array(content) if is_tensor else np.asarray(content)
                )
        self.readers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in {*node.input, *_read_inside(node)}:
                self.readers[name].append(node)
        self.names = {*self.constants, *self.shapes, *self.readers}
        self.names |= {name for node in self.nodes for name in node.output}

    def map_of(self, name: str) -> tuple[int, int, int] | None:
        """(channels, height, width) of a tensor of maps; None of anything else."""
        shape = self.shapes.get(name, ())
        if len(shape) != 4 or self.types.get(name) != TensorProto.FLOAT:
            return None
        _, channels, height, width = shape
        return (channels, height, width) if channels and height and width else None

    def only_reader(self, name: str) -> NodeProto | None:
        """The one node that reads a tensor, if it is one and the tensor is no output."""
        readers = self.readers[name]
        alone = len(readers) == 1 and name not in self.outputs
        return readers[0] if alone else None

    def constant(self, name: str) -> np.ndarray | None:
        return self.constants.get(name)


class _Fuser:
    """Old nodes → steps; every node belongs to one."""

    def __init__(self, graph: _Graph, plain: set[str]) -> None:
        self.graph, self.plain = graph, plain
        self._position = {id(node): i for i, node in enumerate(graph.nodes)}
        self._taken: set[int] = set()
        self._blocked: set[str] = set()  # tensors that operators write

    def steps(self) -> list[Step]:
        placed: dict[int, Step] = {}
        # The later of two convolutions that are added takes the addition along.
        for node in reversed(self.graph.nodes):
            if id(node) not in self._taken and (step := self._convolution(node)):
                last = self._chain(node, step)
                placed[self._position[id(last)]] = step
        self._blocked = {step.output for step in placed.values()}
        for i, node in enumerate(self.graph.nodes):
            if id(node) in self._taken or node.op_type == "Constant":
                continue
            step = self._other(node)
            if step is None:
                placed[i] = Step("", node.name, list(node.input), node.output[0], node=node)
                self._taken.add(id(node))
                continue
            last = self._chain(node, step, adds=False)
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
        options = _attributes(node)
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
        )

    def _chain(self, node: NodeProto, step: Step, adds: bool = True) -> NodeProto:
        """Take along what follows a node: its normalisation, an addition, its activation."""
        self._taken.add(id(node))
        last = node
        while step.weight.size and (after := self._scaled(step)):
            last = self._take(after, step)
        if adds and step.op == "SparseConv" and (added := self._added(step)):
            after, other = added
            step.inputs.append(other)
            last = self._take(after, step)
        takes_it = step.op in _ACTIVATE and step.activation == Activation()
        if takes_it and (found := self._activated(step.output)):
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
            if any(part is None for part in parts) or _attributes(node).get("training_mode"):
                return None
            scale, shift = _normalisation(parts, _attributes(node).get("epsilon", 1e-5))
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
        options = _attributes(node)
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
        name, before, options = node.name or node.output[0], maps[0], _attributes(node)
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
        if any(part is None for part in parts) or _attributes(node).get("training_mode"):
            return None
        scale, shift = _normalisation(parts, _attributes(node).get("epsilon", 1e-5))
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
        options = _attributes(node)
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


class _Emitter:
    """Steps → the new graph, with conversions where layouts meet."""

    def __init__(self, graph: _Graph, steps: list[Step], block: int) -> None:
        self.graph, self.block = graph, block
        self.steps = steps
        self.written = {step.output for step in steps if step.op}
        self.borders: dict[tuple[str, bool], int] = defaultdict(int)
        for step in steps:
            for number, name in enumerate(step.inputs if step.op else ()):
                key = (name, self._planar(step, number))
                needed = step.op in ("SparseConv", "DepthwiseConv") and number == 0
                reach = step.window.border(self._map(name)[1:]) if needed and step.window else 0
                self.borders[key] = max(self.borders[key], reach)
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []
        self.infos: list[onnx.ValueInfoProto] = []
        self._converted: set[tuple[str, bool]] = set()
        self._left: set[str] = set()
        self._node_names = {node.name for node in graph.nodes}
        self._taken_nodes = {step.name for step in steps if not step.op}

    def model(self) -> onnx.ModelProto:
        for step in self.steps:
            self._emit(step) if step.op else self._emit_plain(step)
        for name in self.graph.outputs:
            self._leave(name)
        old = self.graph.model.graph
        used = {name for node in self.nodes for name in (*node.input, *_read_inside(node))}
        used |= {*self.graph.outputs}
        kept = [tensor for tensor in old.initializer if tensor.name in used]
        fixed = [node for node in old.node if node.op_type == "Constant" and node.output[0] in used]
        given = [i for i in old.input if i.name in used or i.name not in self.graph.constants]
        graph = helper.make_graph(
            [*fixed, *self.nodes], old.name, given, old.output, [*kept, *self.weights],
            value_info=self.infos, sparse_initializer=old.sparse_initializer,
        )  # fmt: skip
        source = self.graph.model
        opsets = [*source.opset_import, helper.make_opsetid(DOMAIN, OPSET)]
        model = helper.make_model(
            graph, opset_imports=opsets, ir_version=source.ir_version, functions=source.functions
        )
        model.producer_name, model.producer_version = source.producer_name, source.producer_version
        for entry in source.metadata_props:
            model.metadata_props.add(key=entry.key, value=entry.value)
        model.metadata_props.add(key=f"{DOMAIN}.kernels", value=VERSION)
        model.metadata_props.add(key=f"{DOMAIN}.opset", value=str(OPSET))
        model.metadata_props.add(key=f"{DOMAIN}.block", value=str(self.block))
        return model

    def _emit_plain(self, step: Step) -> None:
        assert step.node is not None
        for name in (*step.node.input, *_read_inside(step.node)):
            self._leave(name)
        self.nodes.append(step.node)

    def _emit(self, step: Step) -> None:
        inputs = [self._blocked(step, number) for number in range(len(step.inputs))]
        attributes: dict[str, int | float] = {"block": self.block, **step.options}
        attributes |= self._map_attributes(step.inputs[0])
        attributes["in_border"] = self._border(step, 0)
        attributes["out_border"] = self.borders[step.output, False]
        if step.window:
            attributes |= step.window.attributes()
        match step.op:
            case "SparseConv":
                inputs = self._sparse(step, inputs, attributes)
            case "DepthwiseConv":
                inputs = self._depthwise(step, inputs)
            case "Concat":
                parts = [
                    (self._map(name)[0], self._border(step, number))
                    for number, name in enumerate(step.inputs)
                ]
                inputs.insert(0, self._weight(step, "parts", np.array(parts, np.int32).ravel()))
            case "Combine":
                if len(step.inputs) > 1:
                    attributes["right_border"] = self._border(step, 1)
                attributes = {"multiplies": 0, "right_is_one_pixel": 0,
                              "right_border": 0} | attributes  # fmt: skip
        if step.op in ("SparseConv", "DepthwiseConv", "Combine"):
            attributes |= {
                "activation": ACTIVATIONS.index(step.activation.kind),
                "alpha": float(step.activation.alpha),
                "beta": float(step.activation.beta),
            }
        output = _fresh(f"{step.output}/blocked", self.graph.names)
        self._node(step.op, inputs, output, step.name, attributes)
        border = int(attributes["out_border"])
        self._describe(output, step.output, border, self.block)

    def _sparse(self, step: Step, inputs: list[str], attributes: dict) -> list[str]:
        planar = self._planar(step, 0)
        encoded = encode(step.weight, step.groups, self.block, planar)
        attributes |= {
            "planar": int(planar), "out_channels": len(step.weight), "residual_border": 0,
        }  # fmt: skip
        residual = inputs[1:]
        if residual:
            attributes["residual_border"] = self._border(step, 1)
        values = (*encoded, self._filled(step.bias))
        parts = zip(("weights", "taps", "starts", "bias"), values, strict=True)
        return [inputs[0], *(self._weight(step, name, value) for name, value in parts), *residual]

    def _depthwise(self, step: Step, inputs: list[str]) -> list[str]:
        places = math.prod(step.weight.shape[2:])
        taps = self._filled(step.weight.reshape(len(step.weight), places))
        taps = taps.reshape(-1, self.block, places).transpose(0, 2, 1)
        weight = self._weight(step, "weights", np.ascontiguousarray(taps))
        return [*inputs, weight, self._weight(step, "bias", self._filled(step.bias))]

    def _filled(self, values: np.ndarray) -> np.ndarray:
        """Values of channels, (channels, …), with 0 for those that fill up the last block."""
        missing = -len(values) % self.block
        return np.pad(values, [(0, missing), *[(0, 0)] * (values.ndim - 1)])

    # -- layouts -------------------------------------------------------------------------------

    def _planar(self, step: Step, number: int) -> bool:
        """Whether a step reads an input's channels one after the other: a network's input."""
        name = step.inputs[number]
        first = step.op == "SparseConv" and number == 0
        return first and name not in self.written and self._map(name)[0] <= MOST_PLANAR

    def _border(self, step: Step, number: int) -> int:
        return self.borders[step.inputs[number], self._planar(step, number)]

    def _blocked(self, step: Step, number: int) -> str:
        """The blocked form of an input; plain ones are converted when first read."""
        name = step.inputs[number]
        if name in self.written:
            return _fresh(f"{name}/blocked", self.graph.names)
        planar = self._planar(step, number)
        converted = _fresh(f"{name}/planar" if planar else f"{name}/blocked", self.graph.names)
        if (name, planar) not in self._converted:
            self._converted.add((name, planar))
            border = self.borders[name, planar]
            attributes = {"block": self.block, "planar": int(planar), "in_border": border}
            attributes |= self._map_attributes(name)
            kind = "to_planar" if planar else "to_blocked"
            self._node("ToBlocked", [name], converted, f"{name}/{kind}", attributes)
            self._describe(converted, name, border, 1 if planar else self.block)
        return converted

    def _leave(self, name: str) -> None:
        """Convert a tensor back, once, if operators wrote it."""
        if name not in self.written or name in self._left:
            return
        self._left.add(name)
        attributes = {"block": self.block, "in_border": self.borders[name, False]}
        attributes |= self._map_attributes(name)
        blocked = _fresh(f"{name}/blocked", self.graph.names)
        self._node("FromBlocked", [blocked], name, f"{name}/from_blocked", attributes)

    def _map(self, name: str) -> tuple[int, int, int]:
        found = self.graph.map_of(name)
        assert found is not None
        return found

    def _map_attributes(self, name: str) -> dict[str, int]:
        channels, height, width = self._map(name)
        return {"in_channels": channels, "in_height": height, "in_width": width}

    def _describe(self, blocked: str, name: str, border: int, lanes: int) -> None:
        """The shape of a blocked tensor, so that the runtime can plan its memory."""
        channels, height, width = self._map(name)
        batch = self.graph.shapes[name][0] or "batch"
        sides = (height + 2 * border, width + 2 * border)
        shape = [batch, -(-channels // lanes), *sides, lanes]
        self.infos.append(helper.make_tensor_value_info(blocked, TensorProto.FLOAT, shape))

    def _node(self, op: str, inputs: list[str], output: str, name: str, attributes: dict) -> None:
        name = _fresh(name, self._node_names) if name in self._taken_nodes else name
        self._taken_nodes.add(name)
        self.nodes.append(
            helper.make_node(op, inputs, [output], name=name, domain=DOMAIN, **attributes)
        )

    def _weight(self, step: Step, part: str, value: np.ndarray) -> str:
        name = _fresh(f"{step.output}/{part}", self.graph.names)
        self.weights.append(numpy_helper.from_array(value, name))
        return name


def _fresh(name: str, known: Collection[str]) -> str:
    """A name that is not known yet: always the same one for the same name."""
    while name in known:
        name += "_"
    return name


def _with_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    try:
        return shape_inference.infer_shapes(model, data_prop=True)
    except shape_inference.InferenceError as error:
        reason = str(error).splitlines()[0]
        raise CannotConvert(f"shapes cannot be inferred: {reason}") from None


def _spelled_out(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same with means over maps that drop their dimensions written as a pool and a flattening.

    PyTorch writes `x.mean((2, 3))` so. The operators only know maps. `model` knows its shapes.
    """
    graph = model.graph
    ranks = {
        entry.name: len(entry.type.tensor_type.shape.dim)
        for entry in (*graph.input, *graph.value_info, *graph.output)
    }
    names = {name for node in graph.node for name in (*node.input, *node.output)}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    constants |= {
        node.output[0]: node.attribute[0].t
        for node in graph.node
        if node.op_type == "Constant" and node.attribute[0].name == "value"
    }
    nodes: list[NodeProto] = []
    for node in graph.node:
        options = _attributes(node)
        axes = options.get("axes")
        if node.op_type == "ReduceMean" and axes is None and len(node.input) > 1:
            known = constants.get(node.input[1])
            axes = numpy_helper.to_array(known).tolist() if known is not None else None
        drops = node.op_type == "ReduceMean" and options.get("keepdims", 1) == 0
        is_of_maps = drops and ranks.get(node.input[0]) == 4
        if not is_of_maps or {axis % 4 for axis in axes or ()} != {2, 3}:
            nodes.append(node)
            continue
        pooled = _fresh(f"{node.output[0]}/pooled", names)
        nodes.append(helper.make_node("GlobalAveragePool", [node.input[0]], [pooled], node.name))
        flat = f"{node.name or node.output[0]}/flatten"
        nodes.append(helper.make_node("Flatten", [pooled], [node.output[0]], flat))
    if len(nodes) == len(graph.node):
        return model
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    del changed.graph.node[:]
    changed.graph.node.extend(nodes)
    return _with_shapes(changed)


def _read_inside(node: NodeProto) -> set[str]:
    """What the branches of a node, such as If or Loop, read of the graph around them."""
    found: set[str] = set()
    for attribute in node.attribute:
        graphs = [attribute.g] if attribute.HasField("g") else [*attribute.graphs]
        for graph in graphs:
            own = {entry.name for entry in (*graph.input, *graph.initializer)}
            for inner in graph.node:
                found |= {name for name in inner.input if name and name not in own}
                found |= _read_inside(inner) - own
                own |= {*inner.output}
            found |= {output.name for output in graph.output if output.name not in own}
    return found


def _attributes(node: NodeProto) -> dict:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


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


def densities(model: onnx.ModelProto) -> Iterator[tuple[str, float]]:
    """Every sparse convolution of a converted model, and the share of its taps that is kept."""
    sizes = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.domain == DOMAIN and node.op_type == "SparseConv":
            options = _attributes(node)
            taps = options["in_channels"] * options["kernel_h"] * options["kernel_w"]
            blocks = sizes[node.input[3]][0] - 1
            yield node.name, sizes[node.input[2]][0] / (blocks * taps)
