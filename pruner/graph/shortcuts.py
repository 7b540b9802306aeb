"""Which layer can take over from blocks that are removed: the last one that adds to what they read.

Block after block adds its part to what passes through a stage. Where some of them go, the layer
before them, their heir, still adds its own part, and can be fitted to add theirs too:

    heir ──(+)── act ──┬── block ──(+)── act ──┬── block ──(+)── act ── …
    shortcut ┘         └───────────┘           └───────────┘

Where plain layers go that follow one another, the one before them is fitted to write what the last
of them wrote.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from torch import fx, nn

from lookup_tables.network import Block, Layer, Network
from pruner.graph.reader import PASSED_ON
from pruner.graph.surgery import ends, weight_of
from pruner.graph.trace import Trace


@dataclass(frozen=True, eq=False)
class Heir:
    """A convolution, and the blocks that follow one another behind it.

    `sums`: for each of these blocks, in their order, the node where it adds its part, before an
    activation that stands in front of the first block as well; of plain layers, what they write
    before theirs.
    """

    path: str  # of its module
    norm: str | None  # path of the BatchNorm behind it
    wrote: fx.Node  # its own part, before anything is added
    output: fx.Node  # what the first block reads; before the activation where that is plain
    sums: dict[str, fx.Node]

    def last(self, removed: Collection[str]) -> str | None:
        """Of the removed blocks that directly follow it, the last; None where the first stays."""
        last = None
        for block in self.sums:
            if block not in removed:
                break
            last = block
        return last


def heirs(trace: Trace) -> list[Heir]:
    """The layers before removable blocks that can be fitted to stand for them.

    There is none where something else reads what the block does, the network's user included,
    where that is not written by a plain convolution, as behind a pool or a sum of its own, and
    where BatchNorm cannot scale.
    """
    returned = _returned(trace)
    layers = {layer.name: layer for layer in trace.network.layers}
    nodes = {node.name: node for node in trace.module.graph.nodes}
    calls = {n.target: n for n in trace.module.graph.nodes if n.op == "call_module"}
    found = []
    for block in trace.network.blocks:
        read = layers[block.input]
        plain = trace.network.is_plain(block)
        if plain and layers[block.output].activation != read.activation:
            continue
        sums = {
            later.name: _sum(trace, read, layers[later.output], ends(trace, later, nodes)[1])
            for later in _chain(trace.network, block, returned)
        }
        if sums and (layer := _writer(trace, layers, read)):
            norm = trace.batch_norms.get(layer.name)
            output = nodes[trace.node_of[read.name]]
            output = _sum(trace, read, read, output) if plain else output
            found.append(Heir(layer.name, norm, calls[norm or layer.name], output, sums))
    return found


def _writer(trace: Trace, layers: dict[str, Layer], read: Layer) -> Layer | None:
    """The convolution with most inputs of those whose outputs, added, are what a block reads."""
    candidates = [read]
    beside = layers.get(read.residual) if read.residual is not None else None
    if (
        beside is not None
        and _readers(trace.network, beside.name) == {read.name}
        and beside.name not in read.inputs
    ):
        candidates.append(beside)  # what a projection is fused with that runs last
    able = [layer for layer in candidates if _can_take_over(trace, layer, read)]
    return max(able, key=lambda layer: _inputs(trace, layer), default=None)


def _can_take_over(trace: Trace, layer: Layer, read: Layer) -> bool:
    if layer.kind != "conv" or (layer is not read and layer.activation != "none"):
        return False
    norm = trace.batch_norms.get(layer.name)
    if norm is None:
        return trace.module.get_submodule(layer.name).bias is not None
    module = trace.module.get_submodule(norm)
    assert isinstance(module, nn.BatchNorm2d)
    return module.affine


def _inputs(trace: Trace, layer: Layer) -> int:
    return weight_of(trace.module.get_submodule(layer.name))[0].numel()


def _returned(trace: Trace) -> set[str]:
    """The layers whose outputs the model returns."""
    (output,) = (node for node in trace.module.graph.nodes if node.op == "output")
    names = {node.name for node in output.all_input_nodes}
    return {layer for layer, node in trace.node_of.items() if node in names}


def _chain(network: Network, block: Block | None, returned: Collection[str]) -> Iterator[Block]:
    """A block and the removable ones that follow, as long as each is all that reads its input.

    Plain layers follow plain ones of the same activation, and blocks with shortcuts each other.
    """
    assert block is not None
    layers = {layer.name: layer for layer in network.layers}

    def kind(each: Block) -> str | None:
        return layers[each.output].activation if network.is_plain(each) else None

    follows = {each.input: each for each in network.blocks if kind(each) == kind(block)}
    while (
        block
        and block.input not in returned
        and _readers(network, block.input) <= set(block.layers)
    ):
        yield block
        block = follows.get(block.output)


def _readers(network: Network, layer: str) -> set[str]:
    return {each.name for each in network.layers if layer in (*each.inputs, each.residual)}


def _sum(trace: Trace, read: Layer, last: Layer, output: fx.Node) -> fx.Node:
    """Of a block's output the node before an activation that what the first one reads has too."""
    if read.activation == last.activation != "none":
        while _is_passed_on(trace, output):
            (output,) = output.all_input_nodes
        (output,) = output.all_input_nodes
    return output


def _is_passed_on(trace: Trace, node: fx.Node) -> bool:
    """Whether a node behind an activation hands it on unchanged."""
    if node.op == "call_module":
        return isinstance(trace.module.get_submodule(str(node.target)), PASSED_ON)
    return False
