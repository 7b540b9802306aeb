"""The graph that is converted, as the other files ask for it: shapes, constants, who reads what."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper, shape_inference

from latprof.kernels import CannotConvert
from latprof.kernels.step import Activation, Step


class Graph:
    """The old graph: shapes, constants, who reads what."""

    folds = True  # scales behind a convolution may become part of its weights

    def __init__(self, model: onnx.ModelProto) -> None:
        """`model`: with its shapes inferred, as `prepared` gives it."""
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
        self.readers = self._who_reads()
        self.names = {*self.constants, *self.shapes, *self.readers}
        self.names |= {name for node in self.nodes for name in node.output}

    def _who_reads(self) -> dict[str, list[NodeProto]]:
        readers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in {*node.input, *read_inside(node)}:
                readers[name].append(node)
        return readers

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

    def can_run(self, step: Step) -> bool:
        """Whether an operator can run what was joined into a step."""
        return True

    def may_end_in(self, step: Step, activation: Activation) -> bool:
        """Whether a step's operator takes this activation along."""
        return True


def prepared(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with shapes inferred, and means over maps as pools; raises CannotConvert."""
    return _spelled_out(_with_shapes(model))


def fresh(name: str, known: Collection[str]) -> str:
    """A name that is not known yet: always the same one for the same name."""
    while name in known:
        name += "_"
    return name


def read_inside(node: NodeProto) -> set[str]:
    """What the branches of a node, such as If or Loop, read of the graph around them."""
    found: set[str] = set()
    for attribute in node.attribute:
        graphs = [attribute.g] if attribute.HasField("g") else [*attribute.graphs]
        for graph in graphs:
            own = {entry.name for entry in (*graph.input, *graph.initializer)}
            for inner in graph.node:
                found |= {name for name in inner.input if name and name not in own}
                found |= read_inside(inner) - own
                own |= {*inner.output}
            found |= {output.name for output in graph.output if output.name not in own}
    return found


def attributes(node: NodeProto) -> dict:
    """A node's attributes by name, as Python's values."""
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


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
        options = attributes(node)
        axes = options.get("axes")
        if node.op_type == "ReduceMean" and axes is None and len(node.input) > 1:
            known = constants.get(node.input[1])
            axes = numpy_helper.to_array(known).tolist() if known is not None else None
        drops = node.op_type == "ReduceMean" and options.get("keepdims", 1) == 0
        is_of_maps = drops and ranks.get(node.input[0]) == 4
        if not is_of_maps or {axis % 4 for axis in axes or ()} != {2, 3}:
            nodes.append(node)
            continue
        pooled = fresh(f"{node.output[0]}/pooled", names)
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
