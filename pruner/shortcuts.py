"""Which layer can take over from blocks that are removed: the last one that writes what they read.

Block after block adds its part to what passes through a stage. Where some of them go, the layer
before them, the heir, still adds its own part to a shortcut, and can be fitted to add theirs too:

    heir ──(+)── act ──┬── block ──(+)── act ──┬── block ──(+)── act ── …
    shortcut ┘         └───────────┘           └───────────┘
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from torch import fx

from lookup_tables.network import Block, Layer, Network
from pruner.graph_reader import PASSED_ON, computes_as
from pruner.surgery import ends
from pruner.trace import Trace


@dataclass(frozen=True, eq=False)
class Heir:
    """A convolution, what is added to its output, and the blocks that follow.

    `sums`: for each of the blocks that follow one another behind it, the node where it adds its
    part, before an activation that is the heir's as well.
    """

    path: str  # of its module
    norm: str | None  # path of the BatchNorm behind it
    shortcut: fx.Node | None  # what is added to its output
    sum: fx.Node  # the two added, before the activation
    output: fx.Node  # and behind it
    sums: dict[str, fx.Node]


def heirs(trace: Trace) -> dict[str, Heir]:
    """Layer that a removable block reads → its heir, where one can be fitted.

    None is known for layers other than plain convolutions, and where BatchNorm cannot scale.
    """
    found, layers = {}, {layer.name: layer for layer in trace.network.layers}
    nodes = {node.name: node for node in trace.module.graph.nodes}
    for block in trace.network.blocks:
        layer, norm = layers[block.input], trace.batch_norms.get(block.input)
        if layer.kind != "conv" or (norm and not trace.module.get_submodule(norm).affine):
            continue
        if norm is None and trace.module.get_submodule(layer.name).bias is None:
            continue
        shortcut = nodes[trace.node_of[layer.residual]] if layer.residual else None
        output = nodes[trace.node_of[layer.name]]
        sums = {
            later.name: _sum(trace, layer, layers[later.output], ends(trace, later, nodes)[1])
            for later in _chain(trace.network, layer.name)
        }
        found[layer.name] = Heir(
            layer.name, norm, shortcut, _sum(trace, layer, layer, output), output, sums
        )
    return found


def ends_of_chains(network: Network, removed: Collection[str]) -> dict[str, str]:
    """Layer that removed blocks leave without its reader → the last block of those behind it."""
    stands_for: dict[str, str] = {}  # output of a removed block → the layer read in its place
    last = {}
    for block in network.blocks:
        if block.name in removed:
            layer = stands_for.get(block.input, block.input)
            stands_for[block.output] = layer
            last[layer] = block.name
    return last


def _chain(network: Network, layer: str) -> Iterator[Block]:
    """The removable blocks that follow one another from a layer's output on."""
    for block in network.blocks:
        if block.input == layer:
            yield block
            layer = block.output


def _sum(trace: Trace, heir: Layer, last: Layer, output: fx.Node) -> fx.Node:
    """Of a layer's output the node before an activation that it shares with the heir."""
    if heir.activation == last.activation != "none":
        while _is_passed_on(trace, output):
            (output,) = output.all_input_nodes
        (output,) = output.all_input_nodes
    return output


def _is_passed_on(trace: Trace, node: fx.Node) -> bool:
    """Whether a node behind an activation hands it on unchanged."""
    if node.op == "call_module":
        return computes_as(trace.module.get_submodule(node.target)) in PASSED_ON
    return node.target in PASSED_ON
