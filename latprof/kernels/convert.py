"""A network of plain ONNX, rewritten for the operators; what they do not know stays as it is.

Weights of 0 are left out where a whole tap of a block is 0; nothing else changes. Convolutions take
the addition and the activation behind them along. Wherever a node that stays plain reads a tensor
in the blocked layout, or the other way round, the tensor is converted once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import onnx

from latprof.kernels import BLOCKS, DOMAIN, CannotConvert
from latprof.kernels.emit import Emitter
from latprof.kernels.emit_quantised import QuantisedEmitter
from latprof.kernels.encode import INPUTS
from latprof.kernels.fuse import Fuser
from latprof.kernels.graph import Graph, attributes, prepared
from latprof.kernels.quantised import QuantisedGraph, is_quantised


def convert(
    model: onnx.ModelProto, block: int = BLOCKS[0], plain: Collection[str] = ()
) -> onnx.ModelProto:
    """The same network on the operators of blocks of so many output channels.

    A quantised one (QDQ) runs on those in INT8, in blocks of 16 output × 4 input channels.
    The batch may be open, height and width may not. `plain`: names of nodes that are to stay.
    Raises CannotConvert where a model has no convolution that they can run.
    """
    if block not in BLOCKS:
        raise CannotConvert(f"block {block}: expected one of {', '.join(map(str, BLOCKS))}")
    if any(entry.domain == DOMAIN for entry in model.opset_import):
        raise CannotConvert("this model uses the operators already")
    known = prepared(model)
    graph = QuantisedGraph(known) if is_quantised(model) else Graph(known)
    for name in plain:
        if name not in {node.name for node in graph.nodes}:
            raise CannotConvert(f"there is no node called {name!r} that could stay plain")
    steps = Fuser(graph, set(plain)).steps()
    if not any(step.op in ("SparseConv", "DepthwiseConv") for step in steps):
        raise CannotConvert(
            "no convolution of this model can be converted; needed are two-dimensional ones with "
            "constant fp32 or int8 weights, and a known height and width"
        )
    if isinstance(graph, QuantisedGraph):
        return QuantisedEmitter(graph, steps, block).model()
    return Emitter(graph, steps, block).model()


def densities(model: onnx.ModelProto) -> Iterator[tuple[str, float]]:
    """Every sparse convolution of a converted model, and the share of its taps that is kept."""
    sizes = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.domain == DOMAIN and node.op_type in ("SparseConv", "QSparseConv"):
            options = attributes(node)
            inputs = INPUTS if node.op_type == "QSparseConv" else 1
            channels = -(-options["in_channels"] // inputs)
            taps = channels * options["kernel_h"] * options["kernel_w"]
            blocks = sizes[node.input[3]][0] - 1
            yield node.name, sizes[node.input[2]][0] / (blocks * taps)
