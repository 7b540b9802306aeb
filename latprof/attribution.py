"""Which layer each runtime node belongs to.

Every node and tensor of the profiled model is called `LAYER@SOMETHING`, and whatever the runtime
fuses or lays out anew keeps a part of such a name. Nodes that the runtime inserts have names of
their own: one that prepares an input belongs to the layer that follows, any other to the layer
before it. So the sum over layers is the sum over nodes.
"""

from __future__ import annotations

from collections.abc import Sequence

from latprof.cpu import NodeTime
from latprof.errors import UnmeasuredLayer
from lookup_tables.layer import WEIGHTED, LayerSpec
from lookup_tables.network import Layer
from lookup_tables.table import LayerTime

_PREPARES_AN_INPUT = {"ReorderInput"}
# What a layer takes that the runtime fused away: not 0, because nothing in a table ever is.
TOKEN_S = 1e-9


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
    current, waiting = layers[0][0].name, []
    for node in nodes:
        name = next((name for name in longest_first if f"{name}@" in node.name), None)
        if name is not None:
            current = name
            mine = [*waiting, node]
            waiting = []
        elif node.op in _PREPARES_AN_INPUT:
            waiting.append(node)
            continue
        else:
            mine = [node]
        seconds[current] += sum(n.seconds for n in mine)
        count[current] += len(mine)
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
