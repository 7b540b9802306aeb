"""Steps → the graph on the operators, with conversions where layouts meet."""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from latprof.kernels import DOMAIN, OPSET, VERSION
from latprof.kernels.encode import encode
from latprof.kernels.graph import Graph, fresh, read_inside
from latprof.kernels.step import ACTIVATIONS, Step

MOST_PLANAR = 4  # channels that are not worth a block: a network's input


class Emitter:
    """Steps → the new graph, with conversions where layouts meet."""

    element: int = TensorProto.FLOAT  # of blocked tensors
    planar_lanes = 1  # of a pixel of a network's input
    kind = ""  # what operators' names begin with

    def __init__(self, graph: Graph, steps: list[Step], block: int) -> None:
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
        used = {name for node in self.nodes for name in (*node.input, *read_inside(node))}
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
        for name in (*step.node.input, *read_inside(step.node)):
            self._leave(name)
        self.nodes.append(step.node)

    def _emit(self, step: Step) -> None:
        inputs = [self._blocked(step, number) for number in range(len(step.inputs))]
        attributes = self._geometry(step)
        match step.op:
            case "SparseConv":
                inputs = self._sparse(step, inputs, attributes)
            case "DepthwiseConv":
                inputs = self._depthwise(step, inputs)
            case "Concat":
                inputs.insert(0, self._parts(step))
            case "Combine":
                attributes = self._combined(step, attributes)
        if step.op in ("SparseConv", "DepthwiseConv", "Combine"):
            attributes |= {
                "activation": ACTIVATIONS.index(step.activation.kind),
                "alpha": float(step.activation.alpha),
                "beta": float(step.activation.beta),
            }
        self._write(step, step.op, inputs, attributes)

    def _meaning(self, name: str) -> dict[str, int | float]:
        """What an operator that converts a plain tensor must know of its numbers."""
        return {}

    def _write(self, step: Step, op: str, inputs: list[str], attributes: dict) -> None:
        """The node of a step, and what it writes."""
        output = fresh(f"{step.output}/blocked", self.graph.names)
        self._node(f"{self.kind}{op}", inputs, output, step.name, attributes)
        self._describe(output, step.output, int(attributes["out_border"]), self.block)

    def _geometry(self, step: Step) -> dict:
        """The attributes that say how a step's maps lie, and how its window slides."""
        attributes: dict[str, int | float] = {"block": self.block, **step.options}
        attributes |= self._map_attributes(step.inputs[0])
        attributes["in_border"] = self._border(step, 0)
        attributes["out_border"] = self.borders[step.output, False]
        return attributes | (step.window.attributes() if step.window else {})

    def _parts(self, step: Step) -> str:
        """The channels and the border of every map that is joined."""
        parts = [
            (self._map(name)[0], self._border(step, number))
            for number, name in enumerate(step.inputs)
        ]
        return self._weight(step, "parts", np.array(parts, np.int32).ravel())

    def _combined(self, step: Step, attributes: dict) -> dict:
        if len(step.inputs) > 1:
            attributes["right_border"] = self._border(step, 1)
        usual = {"multiplies": 0, "right_is_one_pixel": 0, "right_border": 0}
        return usual | attributes

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
        weight = self._weight(step, "weights", self._by_places(step.weight))
        return [*inputs, weight, self._weight(step, "bias", self._filled(step.bias))]

    def _by_places(self, weight: np.ndarray) -> np.ndarray:
        """A depthwise weight, (channels, 1, height, width), as (blocks, places, block)."""
        places = math.prod(weight.shape[2:])
        taps = self._filled(weight.reshape(len(weight), places))
        return np.ascontiguousarray(taps.reshape(-1, self.block, places).transpose(0, 2, 1))

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
            return fresh(f"{name}/blocked", self.graph.names)
        planar = self._planar(step, number)
        converted = fresh(f"{name}/planar" if planar else f"{name}/blocked", self.graph.names)
        if (name, planar) not in self._converted:
            self._converted.add((name, planar))
            border = self.borders[name, planar]
            attributes: dict = {"block": self.block, "planar": int(planar), "in_border": border}
            attributes |= self._map_attributes(name) | self._meaning(name)
            label = f"{name}/{'to_planar' if planar else 'to_blocked'}"
            self._node(f"{self.kind}ToBlocked", [name], converted, label, attributes)
            self._describe(converted, name, border, self.planar_lanes if planar else self.block)
        return converted

    def _leave(self, name: str) -> None:
        """Convert a tensor back, once, if operators wrote it."""
        self._unblocked(name, name)

    def _unblocked(self, name: str, plain: str) -> None:
        """Write what operators wrote of a tensor under a name of plain layout, once."""
        if name not in self.written or name in self._left:
            return
        self._left.add(name)
        attributes = {"block": self.block, "in_border": self.borders[name, False]}
        attributes |= self._map_attributes(name)
        blocked = fresh(f"{name}/blocked", self.graph.names)
        label = f"{name}/from_blocked"
        self._node(f"{self.kind}FromBlocked", [blocked], plain, label, attributes)

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
        self.infos.append(helper.make_tensor_value_info(blocked, self.element, shape))

    def _node(self, op: str, inputs: list[str], output: str, name: str, attributes: dict) -> None:
        name = fresh(name, self._node_names) if name in self._taken_nodes else name
        self._taken_nodes.add(name)
        self.nodes.append(
            helper.make_node(op, inputs, [output], name=name, domain=DOMAIN, **attributes)
        )

    def _weight(self, step: Step, part: str, value: np.ndarray) -> str:
        name = fresh(f"{step.output}/{part}", self.graph.names)
        self.weights.append(numpy_helper.from_array(value, name))
        return name
