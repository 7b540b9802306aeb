"""What a search decides, in the order in which it decides: widths of groups, and blocks to keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lookup_tables.network import Architecture, Network

REMOVED, KEPT = 0, 1  # a block's options


@dataclass(frozen=True, slots=True)
class Choice:
    """One decision; `options` ascend: widths of a group, or REMOVED and KEPT of a block."""

    name: str
    options: tuple[int, ...]
    is_block: bool = False
    inside: int | None = None  # position of the block decision that takes this group with it

    @property
    def full(self) -> int:
        return self.options[-1]


def choices(network: Network, depth: bool = False) -> tuple[Choice, ...]:
    """Decisions in the network's order; with `depth` a block's comes before those inside it."""
    first_layer: dict[str, int] = {}
    for i, layer in enumerate(network.layers):
        if layer.group is not None:
            first_layer.setdefault(layer.group, i)
    at = {layer.name: i for i, layer in enumerate(network.layers)}
    entries = [(first_layer[g.name], 1, g.name, g.choices) for g in network.groups]
    if depth:
        options = (REMOVED, KEPT)
        entries += [(min(at[n] for n in b.layers), 0, b.name, options) for b in network.blocks]
    entries.sort(key=lambda entry: entry[:2])
    position = {name: i for i, (_, kind, name, _) in enumerate(entries) if kind == 0}
    inside = _inside(network)
    return tuple(
        Choice(name, options, kind == 0, position.get(inside.get(name)) if kind else None)
        for _, kind, name, options in entries
    )


def architecture(decided: Sequence[Choice], positions: Sequence[int]) -> Architecture:
    """What these positions say; a group that goes with its block keeps its full width's name."""
    widths, removed = {}, []
    for choice, position in zip(decided, positions, strict=True):
        option = choice.options[position]
        if choice.is_block:
            if option == REMOVED:
                removed.append(choice.name)
        else:
            gone = choice.inside is not None and positions[choice.inside] == REMOVED
            widths[choice.name] = choice.full if gone else option
    return Architecture(widths=widths, removed=tuple(removed))


def _inside(network: Network) -> dict[str, str]:
    """Group → the block that all its layers belong to."""
    blocks: dict[str, set[str | None]] = {}
    for layer in network.layers:
        if layer.group is not None:
            blocks.setdefault(layer.group, set()).add(network.block_of.get(layer.name))
    return {
        group: next(iter(found))
        for group, found in blocks.items()
        if len(found) == 1 and None not in found
    }
