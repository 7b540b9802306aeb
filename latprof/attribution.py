"""Which layer each runtime node belongs to.

Nodes keep their layer's name before `@`, whatever they were fused with. Layout changes and other
nodes that the runtime inserts have names of their own: one that prepares an input belongs to the
layer that follows, any other to the layer before it. So the sum over layers is the sum over nodes.
"""

from __future__ import annotations

from collections.abc import Sequence

from latprof.cpu import NodeTime
from lookup_tables.layer import LayerSpec
from lookup_tables.network import Layer
from lookup_tables.table import LayerTime

_PREPARES_AN_INPUT = {"ReorderInput"}


class UnmeasuredLayer(AssertionError):
    """A layer that no runtime node was named after."""


def attribute(
    nodes: Sequence[NodeTime], layers: Sequence[tuple[Layer, LayerSpec]]
) -> tuple[LayerTime, ...]:
    """Sum the nodes' seconds per layer, in the layers' order."""
    seconds = {layer.name: 0.0 for layer, _ in layers}
    count = dict.fromkeys(seconds, 0)
    current, waiting = layers[0][0].name, []
    for node in nodes:
        name = node.name.partition("@")[0]
        if name in seconds:
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
    missing = [name for name, n in count.items() if n == 0]
    if missing:
        raise UnmeasuredLayer(f"no runtime node belongs to layer {missing[0]}")
    return tuple(
        LayerTime(layer=spec, seconds=seconds[layer.name], nodes=count[layer.name])
        for layer, spec in layers
    )
