"""Which layer each runtime node belongs to.

Every node and tensor of the profiled model is called `LAYER@SOMETHING`, and whatever the runtime
fuses or lays out anew keeps a part of such a name. Nodes that the runtime inserts to change a
tensor's layout have names of their own; they belong to the layer that wrote the tensor, because
whether one is needed depends on how that layer ran and on who reads its channels: both follow from
that layer's own two widths. So the sum over layers is the sum over nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from latprof import UnmeasuredLayer
from lookup_tables.layer import WEIGHTED, LayerSpec
from lookup_tables.network import Layer
from lookup_tables.table.rows import LayerTime

_PREPARES_AN_INPUT = {"ReorderInput"}
_COMPUTES = {"Conv", "FusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"}
# What a layer takes that the runtime fused away: not 0, because nothing in a table ever is.
TOKEN_S = 1e-9


@dataclass(frozen=True, slots=True)
class NodeTime:
    """One runtime node's mean seconds a run; `name` still holds the layer's name before `@`."""

    name: str
    op: str
    seconds: float


def attribute(
    nodes: Sequence[NodeTime], layers: Sequence[tuple[Layer, LayerSpec]]
) -> tuple[LayerTime, ...]:
    """Sum the nodes' seconds per layer, in the layers' order.

    Glue without a node of its own was fused into another layer and gets TOKEN_S and 0 nodes; a
    layer with weights must have one, else UnmeasuredLayer is raised.
    """
    seconds = {layer.name: 0.0 for layer, _ in layers}
    count = dict.fromkeys(seconds, 0)
    longest_first = sorted(seconds, key=len, reverse=True)
    source = {layer.name: layer.inputs[0] for layer, _ in layers}
    kind = {layer.name: layer.kind for layer, _ in layers}
    current, waiting = layers[0][0].name, []

    def give(name: str, node: NodeTime) -> None:
        seconds[name] += node.seconds
        count[name] += 1

    for node in nodes:
        name = next((name for name in longest_first if f"{name}@" in node.name), None)
        while name in source and node.op in _COMPUTES and kind[name] not in WEIGHTED:
            name = source[name]  # a convolution took a scale along, and its name
        if name is None and node.op in _PREPARES_AN_INPUT:
            waiting.append(node)
            continue
        current = name or current
        give(current, node)
        for prepared in waiting:
            give(source[current] if source[current] in seconds else current, prepared)
        waiting = []
    for layer, spec in layers:
        if count[layer.name] == 0 and layer.kind in WEIGHTED:
            raise UnmeasuredLayer(
                f"layer {layer.name} ({spec}): no node of the runtime carries its name, so it "
                "cannot be timed. Please report this network"
            )
    return tuple(
        LayerTime(
            layer=spec,
            seconds=max(seconds[layer.name], TOKEN_S),
            nodes=count[layer.name],
        )
        for layer, spec in layers
    )
