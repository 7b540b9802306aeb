"""SearchSpace: what a search decides, and architectures as one option for every decision.

Decisions come in the network's order; a removable block's comes before those of what is inside.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from lookup_tables.architecture import Architecture
from lookup_tables.network import Network
from pruner import SearchError

REMOVED, KEPT = 0, 1  # a block's options
Encoding = tuple[int, ...]  # of every decision, which of its options


class Kind(StrEnum):
    """What can be decided: channels of a group, a block's presence, the share of weights kept."""

    BLOCK = "block"
    WIDTH = "width"
    DENSITY = "density"


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision; `options` ascend, and the dense network's is the last one.

    Widths of a group, REMOVED and KEPT of a block, shares of a layer's weights. `inside`: the
    removable block that takes what is decided with it.
    """

    name: str  # of the group, block or layer
    kind: Kind
    options: tuple[float, ...]
    inside: str | None = None

    @property
    def full(self) -> float:
        return self.options[-1]

    @property
    def is_block(self) -> bool:
        return self.kind is Kind.BLOCK


class SearchSpace:
    """The decisions of one network, and the two ways between encodings and architectures.

    An architecture on the menu has one encoding: what goes with a removed block has its dense
    option, and the width of a removed plain layer is that of the layer before it.
    """

    def __init__(self, network: Network, decisions: Sequence[Decision]) -> None:
        self.network, self.decisions = network, tuple(decisions)
        self.at = {(d.kind, d.name): i for i, d in enumerate(self.decisions)}
        self._block_at = [self._position_of_block(decision) for decision in self.decisions]
        self.ties = tuple(self._ties())

    @classmethod
    def of(
        cls,
        network: Network,
        kinds: Collection[Kind] = (Kind.WIDTH,),
        densities: Mapping[str, Sequence[float]] | None = None,
        stay: Collection[str] = (),
    ) -> SearchSpace:
        """Decisions of these kinds: groups' menus, removable blocks, and layers' `densities`.

        `stay`: blocks that are not removed.
        """
        first_layer: dict[str, int] = {}
        for i, layer in enumerate(network.layers):
            if layer.group is not None:
                first_layer.setdefault(layer.group, i)
        at = {layer.name: i for i, layer in enumerate(network.layers)}
        inside = _groups_inside(network) if Kind.BLOCK in kinds else {}
        found: list[tuple[int, Decision]] = []
        if Kind.BLOCK in kinds:
            for block in network.blocks:
                if block.name in stay:
                    continue
                decision = Decision(block.name, Kind.BLOCK, (REMOVED, KEPT))
                found.append((min(at[name] for name in block.layers), decision))
        if Kind.WIDTH in kinds:
            for group in network.groups:
                options = tuple(group.choices)
                decision = Decision(group.name, Kind.WIDTH, options, inside.get(group.name))
                found.append((first_layer[group.name], decision))
        if Kind.DENSITY in kinds:
            block_of = network.block_of if Kind.BLOCK in kinds else {}
            for name, shares in (densities or {}).items():
                decision = Decision(name, Kind.DENSITY, tuple(shares), block_of.get(name))
                found.append((at[name], decision))
        order = [*Kind]
        found.sort(key=lambda entry: (entry[0], order.index(entry[1].kind)))
        return cls(network, [decision for _, decision in found])

    def __len__(self) -> int:
        return len(self.decisions)

    @cached_property
    def dense(self) -> Encoding:
        return tuple(len(decision.options) - 1 for decision in self.decisions)

    @property
    def has_blocks(self) -> bool:
        return any(decision.is_block for decision in self.decisions)

    def inside_of(self, index: int) -> list[int]:
        """The decisions that a removed block, this one, takes with it."""
        return [i for i, block in enumerate(self._block_at) if block == index]

    def block_around(self, index: int) -> int | None:
        """The block decision that takes this one with it; None if there is none."""
        return self._block_at[index]

    def is_gone(self, index: int, positions: Sequence[int]) -> bool:
        """Whether a removed block takes this decision with it."""
        block = self._block_at[index]
        return block is not None and positions[block] == REMOVED

    def canonical(self, positions: Sequence[int]) -> list[int]:
        """The same architecture's one encoding."""
        found = [
            full if self.is_gone(i, positions) else positions[i]
            for i, full in enumerate(self.dense)
        ]
        for block, own, read in self.ties:
            if found[block] == REMOVED:
                found[own] = self._same_width(own, read, found[read])
        return found

    def _same_width(self, own: int, read: int, position: int) -> int:
        """The option of one decision that is as wide as another's; the full one without such."""
        width, options = self.decisions[read].options[position], self.decisions[own].options
        return options.index(width) if width in options else len(options) - 1

    def decode(self, positions: Sequence[int]) -> Architecture:
        """The architecture of these options."""
        widths: dict[str, int] = {}
        density: dict[str, float] = {}
        removed = []
        for index, (decision, position) in enumerate(zip(self.decisions, positions, strict=True)):
            option = decision.full if self.is_gone(index, positions) else decision.options[position]
            if decision.kind is Kind.BLOCK:
                removed += [decision.name] if option == REMOVED else []
            elif decision.kind is Kind.WIDTH:
                widths[decision.name] = int(option)
            elif option < 1:
                density[decision.name] = option
        if widths:
            widths = self.network.tied(widths, removed)
        return Architecture(widths=widths, removed=tuple(removed), density=density)

    def encode(self, architecture: Architecture) -> list[int]:
        """The encoding of an architecture on the menu; raises SearchError naming what is not."""
        follow = {own for block, own, _ in self.ties
                  if self.decisions[block].name in architecture.removed}  # fmt: skip
        return self.canonical(
            [
                self.dense[i] if i in follow else self._option(each, architecture)
                for i, each in enumerate(self.decisions)
            ]
        )

    def _option(self, decision: Decision, architecture: Architecture) -> int:
        if decision.kind is Kind.BLOCK:
            return REMOVED if decision.name in architecture.removed else KEPT
        if decision.kind is Kind.WIDTH:
            chosen: float = architecture.widths.get(decision.name, decision.full)
        else:
            chosen = architecture.density.get(decision.name, decision.full)
        if chosen not in decision.options:
            raise SearchError(
                f"{decision.kind} {chosen:g} of {decision.name} is not a candidate; choose from "
                + ", ".join(f"{option:g}" for option in decision.options)
            )
        return decision.options.index(chosen)

    def _ties(self) -> Iterator[tuple[int, int, int]]:
        """Of plain layers that can be removed: its decision, its group's, the one it reads."""
        for layer, (own, read) in self.network.ties.items():
            block = self.at.get((Kind.BLOCK, layer))
            widths = [self.at.get((Kind.WIDTH, group)) for group in (own, read)]
            if block is not None and None not in widths:
                yield block, *(i for i in widths if i is not None)  # type: ignore[misc]

    def _position_of_block(self, decision: Decision) -> int | None:
        if decision.inside is None:
            return None
        return self.at.get((Kind.BLOCK, decision.inside))


def _groups_inside(network: Network) -> dict[str, str]:
    """Group → the block that all its layers belong to, and that takes it along."""
    stay = {own for own, _ in network.ties.values()}  # others write such channels then
    blocks: dict[str, set[str | None]] = {}
    for layer in network.layers:
        if layer.group is not None and layer.group not in stay:
            blocks.setdefault(layer.group, set()).add(network.block_of.get(layer.name))
    return {
        group: block
        for group, found in blocks.items()
        for block in found
        if len(found) == 1 and block is not None
    }
