"""Patterns: several ONNX nodes that are one operation, recognised by what they compute.

Exporters write an activation, a group norm or a channel shuffle out where their version of ONNX has
no operator for it, and each does so in its own way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import onnx
import onnxruntime as ort
from onnx import NodeProto, TensorProto, helper, numpy_helper

Array = np.ndarray
Shapes = Mapping[str, tuple[int, ...]]
SHUFFLE = "ChannelShuffle"  # no operator of ONNX's; it has the attribute `group`

_ELEMENTWISE = {
    "Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Exp", "Log", "Erf", "Tanh", "Sigmoid", "Softplus",
    "HardSigmoid", "Clip", "Relu", "Neg", "Reciprocal", "Min", "Max", "HardSwish",
}  # fmt: skip
_LONGEST = 16  # nodes of a written-out activation
_ALIKE = 2e-3
_PLACES = np.linspace(-9, 9, 181, dtype=np.float32)


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def _hard_sigmoid(x: Array) -> Array:
    return np.clip(x / 6 + 0.5, 0, 1)


def _gelu(x: Array) -> Array:
    return x * (1 + np.array([math.erf(value / math.sqrt(2)) for value in x])) / 2


def _gelu_by_tanh(x: Array) -> Array:
    return x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


_COMPUTED: list[tuple[str, Callable[[Array], Array]]] = [  # the operator of ONNX's for it
    ("Gelu", _gelu),
    ("Gelu", _gelu_by_tanh),
    ("Swish", lambda x: x * _sigmoid(x)),
    ("HardSwish", lambda x: x * _hard_sigmoid(x)),
    ("HardSigmoid", _hard_sigmoid),
    ("Mish", lambda x: x * np.tanh(np.log1p(np.exp(x)))),
    ("Softplus", lambda x: np.log1p(np.exp(x))),
]


def recognised(
    graph: onnx.GraphProto, opset: int, constants: Mapping[str, Array], shapes: Shapes
) -> list[NodeProto]:
    """The graph's nodes in order, with every pattern as one node under the name of its last."""
    patterns = _Patterns(graph, opset, constants, shapes)
    for find in (_Patterns.shuffles, _Patterns.group_norms, _Patterns.activations):
        for whole, single in [*find(patterns)]:
            patterns.exchange(whole, single)
    return patterns.nodes


class _Patterns:
    def __init__(
        self, graph: onnx.GraphProto, opset: int, constants: Mapping[str, Array], shapes: Shapes
    ) -> None:
        self.nodes = [*graph.node]
        self.opset, self.shapes = opset, shapes
        self.constants = dict(constants)
        for node in self.nodes:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self.constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        self.outputs = {output.name for output in graph.output}
        self._index()

    def _index(self) -> None:
        self.users: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for name in {*node.input}:
                self.users.setdefault(name, []).append(node)

    def exchange(self, whole: list[NodeProto], single: NodeProto) -> None:
        """Put one node where the last of several was, unless another pattern took one of them."""
        places = {id(node): place for place, node in enumerate(self.nodes)}
        if all(id(node) in places for node in whole):
            self.nodes[max(places[id(node)] for node in whole)] = single
            gone = {id(node) for node in whole}
            self.nodes = [node for node in self.nodes if id(node) not in gone]
            self._index()

    def _next(self, node: NodeProto, *kinds: str) -> NodeProto | None:
        """The only node that reads what this one writes, if it is of one of the kinds."""
        users = self.users.get(node.output[0], [])
        alone = len(users) == 1 and node.output[0] not in self.outputs
        return users[0] if alone and users[0].op_type in kinds else None

    # -- reshaped and back ---------------------------------------------------------------------

    def shuffles(self) -> Iterator[tuple[list[NodeProto], NodeProto]]:
        """(n, g · c, h, w) → (n, g, c, h, w) → (n, c, g, h, w) → (n, c · g, h, w)."""
        for apart in self.nodes:
            turned = self._next(apart, "Transpose") if apart.op_type == "Reshape" else None
            together = self._next(turned, "Reshape") if turned else None
            if turned is None or together is None:
                continue
            before, between = (self.shapes.get(n, ()) for n in (apart.input[0], apart.output[0]))
            order = [number for a in turned.attribute if a.name == "perm" for number in a.ints]
            if (
                len(before) == 4
                and len(between) == 5
                and (between[0], *between[3:]) == (before[0], *before[2:])
                and self.shapes.get(together.output[0]) == before
                and order == [0, 2, 1, 3, 4]
            ):
                ends = apart.input[:1], together.output[:1]
                single = helper.make_node(SHUFFLE, *ends, together.name, group=between[1])
                yield [apart, turned, together], single

    def group_norms(self) -> Iterator[tuple[list[NodeProto], NodeProto]]:
        """Maps of one group each as instances; a scale and a shift for every channel may follow."""
        for apart in self.nodes:
            norm = (
                self._next(apart, "InstanceNormalization") if apart.op_type == "Reshape" else None
            )
            together = self._next(norm, "Reshape") if norm else None
            if norm is None or together is None:
                continue
            before, between = (self.shapes.get(n, ()) for n in (apart.input[0], apart.output[0]))
            if len(before) != 4 or len(between) != 3:
                continue
            if self.shapes.get(together.output[0]) != before:
                continue
            whole = [apart, norm, together]
            for kind in ("Mul", "Add"):
                by = self._next(whole[-1], kind)
                if by and any(self._each(name) == before[1] for name in by.input):
                    whole.append(by)
            single = helper.make_node(
                "GroupNormalization", apart.input[:1], whole[-1].output[:1], whole[-1].name,
                num_groups=between[1],
            )  # fmt: skip
            yield whole, single

    def _each(self, name: str) -> int:
        return self.constants[name].size if name in self.constants else 0

    # -- activations ---------------------------------------------------------------------------

    def activations(self) -> Iterator[tuple[list[NodeProto], NodeProto]]:
        """Elementwise nodes that compute of one tensor alone what a known activation computes."""
        for source in [*self.users]:
            if source in self.constants or not any(self._follows(source)):
                continue
            region = self._region(source)
            for last in reversed(region):
                whole = self._up_to(last, region)
                if len(whole) > 1 and (kind := self._computes(source, whole)):
                    yield whole, helper.make_node(kind, [source], last.output[:1], last.name)
                    break

    def _follows(self, source: str) -> Iterator[NodeProto]:
        return (node for node in self.users[source] if node.op_type in _ELEMENTWISE)

    def _region(self, source: str) -> list[NodeProto]:
        """Nodes, in order, that compute with one tensor and single numbers only."""
        known, region = {source}, []
        start = min(self.nodes.index(node) for node in self._follows(source))
        for node in self.nodes[start : start + 4 * _LONGEST]:
            read = [name for name in node.input if name and self._each(name) != 1]
            if node.op_type in _ELEMENTWISE and read and known.issuperset(read):
                known.add(node.output[0])
                region.append(node)
        return region[:_LONGEST]

    def _up_to(self, last: NodeProto, region: list[NodeProto]) -> list[NodeProto]:
        """What a node needs of a region, last; none where anything else reads a part of it."""
        needed, whole = {last.output[0]}, list[NodeProto]()
        for node in reversed(region):
            if node.output[0] in needed:
                needed |= {*node.input}
                whole.insert(0, node)
        names = {node.name or node.output[0] for node in whole}
        for node in whole[:-1]:
            readers = {user.name or user.output[0] for user in self.users.get(node.output[0], [])}
            if node.output[0] in self.outputs or not readers <= names:
                return []
        return whole

    def _computes(self, source: str, whole: list[NodeProto]) -> str | None:
        """The operator that gives the same numbers; None for none."""
        given = {n for node in whole for n in node.input if n in self.constants}
        weights = [
            numpy_helper.from_array(self.constants[name].reshape(()), name) for name in given
        ]
        x, y = (
            helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
            for name in (source, whole[-1].output[0])
        )
        graph = helper.make_graph(whole, "activation", [x], [y], weights)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8
        )
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        try:
            session = ort.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
            (found,) = session.run(None, {source: _PLACES})
        except Exception:  # of whatever kind: what the runtime cannot run is left as it is
            return None
        places = _PLACES.astype(np.float64)
        near = (kind for kind, f in _COMPUTED if np.abs(found - f(places)).max() < _ALIKE)
        return next(near, None)
