"""Which pruned variants of a network to run: an orthogonal array of strength 2.

With q levels per group, q a prime power, run (a, b) in GF(q)² gives group j the level
a·x_j + b·y_j, where (x_j, y_j) is one of the q + 1 directions of the affine plane. Groups with
different directions meet in every pair of levels exactly once; so if groups that share a layer
get different directions, q² runs hold every (input width, output width) pair of every layer
(Hedayat, Sloane, Stufken, "Orthogonal Arrays", 1999, theorem 3.1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from lookup_tables.architecture import Architecture
from lookup_tables.network import ChannelGroup, Network

# x^m modulo the field's irreducible polynomial, as bits: GF(4): x² + x + 1, GF(8): x³ + x + 1.
_BINARY_FIELDS = {4: 0b111, 8: 0b1011}
_PRIMES = (2, 3, 5, 7, 11, 13)
LEVELS = tuple(sorted((*_PRIMES, *_BINARY_FIELDS)))
_MOST_MISSES = 1000  # draws that gave nothing new before a network counts as exhausted
SMALLER = 12  # extra runs of thin and shallow networks, so that calibration holds for them too
_MOST_KEPT = 0.8  # share of the groups that keep their full width in a wide, shallow network


def design(network: Network, levels: int, seed: int) -> list[Architecture]:
    """The corners, levels² architectures that hold every pair of widths of every layer, and more.

    First the dense and the narrowest network: whatever lies between can be predicted from then
    on, sums of widths behind a concatenation too. The others follow in random order, so that any
    part of the list is a fair sample: the array, and thin or shallow networks. Raises ValueError
    if `levels` is not one of LEVELS.
    """
    rng = np.random.default_rng([seed, 1])
    directions = _assign_directions(network, levels, rng)
    shuffles = {group.name: rng.permutation(levels) for group in network.groups}
    multiply, add = field(levels)
    architectures = []
    for a in range(levels):
        for b in range(levels):
            widths = {}
            for group in network.groups:
                x, y = directions[group.name]
                level = shuffles[group.name][add[multiply[a, x], multiply[b, y]]]
                widths[group.name] = _width(group, level, levels)
            architectures.append(Architecture(widths=widths))
    menu = {group.name: level_widths(group, levels) for group in network.groups}
    architectures += [_smaller(network, menu, rng) for _ in range(min(SMALLER, levels**2))]
    narrowest = Architecture(
        widths={group.name: narrowest_width(group) for group in network.groups}
    )
    shuffled = [architectures[i] for i in rng.permutation(len(architectures))]
    return [network.dense, narrowest, *shuffled]


def narrowest_width(group: ChannelGroup) -> int:
    """The least width a table answers for: a tenth of the full one, or the menu's if narrower."""
    return min(group.choices[0], max(1, group.width // 10))


def quarter_width(group: ChannelGroup) -> int:
    """Where "any width" begins: a quarter of the full one, rounded up."""
    return -(-group.width // 4)


def any_width(network: Network, rng: np.random.Generator) -> Architecture:
    """Widths drawn between a quarter and the full one, whatever the menu."""
    return _between(network, rng, quarter_width)


def whole_range(network: Network, rng: np.random.Generator) -> Architecture:
    """Widths drawn from all that a table answers for."""
    return _between(network, rng, narrowest_width)


def _between(network: Network, rng: np.random.Generator, lowest) -> Architecture:
    return Architecture(
        widths={
            group.name: int(rng.integers(lowest(group), group.width + 1))
            for group in network.groups
        }
    )


def thin(network: Network, rng: np.random.Generator) -> Architecture:
    """Widths up to a random share of the full ones, whatever the menu; blocks may be removed.

    Between the menu's lowest widths lie the networks that were pruned most.
    """
    ceiling = rng.uniform(0.1, 1.0)
    widths = {}
    for group in network.groups:
        lowest = narrowest_width(group)
        highest = max(lowest, int(ceiling * group.width))
        widths[group.name] = int(rng.integers(lowest, highest + 1))
    removed = _some_blocks(network, rng) if rng.random() < 0.5 else ()
    return Architecture(widths=widths, removed=removed)


def unseen(
    network: Network,
    count: int,
    seed: int,
    exclude: Sequence[Architecture] = (),
    menu: Mapping[str, Sequence[int]] | None = None,
) -> list[Architecture]:
    """`count` random architectures, none of them in `exclude`: by turns on the menu and any width.

    `menu` maps groups to widths; without it the network's own.

    Where the network has removable blocks, every second of either kind also loses a random part of
    them, and every fourth keeps some groups' full width as well, as networks do that a search
    found. A network with too few architectures on its menu gets other widths instead, and loses
    blocks more often. A longer list begins with the shorter one.
    """
    rng = np.random.default_rng([seed, 2])
    menu = menu or {group.name: group.choices for group in network.groups}
    taken = {architecture.model_dump_json() for architecture in exclude}
    found: list[Architecture] = []
    misses = 0
    while len(found) < count and misses < _MOST_MISSES:
        off_menu = len(found) % 2 == 1 or misses > _MOST_MISSES // 2
        stuck = misses > _MOST_MISSES // 4
        architecture = any_width(network, rng) if off_menu else _random(network, menu, rng)
        if network.blocks and (len(found) % 4 >= 2 or stuck):
            lose = _shallower if len(found) % 8 >= 4 else _without_blocks
            architecture = lose(network, architecture, rng)
        misses += 1
        if architecture.model_dump_json() not in taken:
            misses = 0
            taken.add(architecture.model_dump_json())
            found.append(architecture)
    return found


def field(order: int) -> tuple[np.ndarray, np.ndarray]:
    """(multiplication, addition) tables of GF(order), each (order, order)."""
    elements = np.arange(order)
    if order in _PRIMES:
        return np.outer(elements, elements) % order, np.add.outer(elements, elements) % order
    if order not in _BINARY_FIELDS:
        raise ValueError(f"{order} levels: choose one of {', '.join(map(str, LEVELS))}")
    polynomial = _BINARY_FIELDS[order]
    table = [
        [_multiply_bits(int(a), int(b), order, polynomial) for b in elements] for a in elements
    ]
    return np.array(table), np.bitwise_xor.outer(elements, elements)


def _multiply_bits(a: int, b: int, order: int, polynomial: int) -> int:
    product = 0
    while b:
        if b & 1:
            product ^= a
        b >>= 1
        a <<= 1
        if a & order:
            a ^= polynomial
    return product


def _assign_directions(network: Network, levels: int, rng) -> dict[str, tuple[int, int]]:
    """A direction per group, different for groups that share a layer (greedy colouring).

    Where more than levels + 1 groups meet (wide concatenations), the rarest is used twice; the
    pairs it misses are interpolated.
    """
    directions = [(1, slope) for slope in range(levels)] + [(0, 1)]
    neighbours = _neighbours(network)
    chosen: dict[str, int] = {}
    for group in sorted(network.groups, key=lambda g: -len(neighbours[g.name])):
        taken = [chosen[name] for name in neighbours[group.name] if name in chosen]
        uses = [taken.count(i) for i in range(len(directions))]
        free = [i for i, n in enumerate(uses) if n == min(uses)]
        chosen[group.name] = int(rng.choice(free))
    return {name: directions[i] for name, i in chosen.items()}


def _neighbours(network: Network) -> dict[str, set[str]]:
    """Group → the groups it shares a layer with."""
    neighbours: dict[str, set[str]] = {group.name: set() for group in network.groups}
    for geometry in network.geometry.values():
        names = {name for name, _ in (*geometry.in_form.factors, *geometry.out_form.factors)}
        for name in names:
            neighbours[name] |= names - {name}
    return neighbours


def level_widths(group: ChannelGroup, levels: int) -> tuple[int, ...]:
    """The widths of a group's menu that a design of so many levels runs."""
    return tuple(sorted({_width(group, level, levels) for level in range(levels)}))


def _width(group: ChannelGroup, level: int, levels: int) -> int:
    """A group with fewer widths than levels repeats them; of more it skips inner ones."""
    count = len(group.choices)
    if count <= levels:
        return group.choices[level * count // levels]
    return group.choices[round(level * (count - 1) / (levels - 1))]


def _smaller(network: Network, menu, rng: np.random.Generator) -> Architecture:
    """Widths up to a random share of the full ones; where there are blocks, some are removed."""
    ceiling = rng.uniform(0.2, 1.0)
    thinner = {
        group.name: [w for w in menu[group.name] if w <= ceiling * group.width]
        or menu[group.name][:1]
        for group in network.groups
    }
    return _without_blocks(network, _random(network, thinner, rng), rng)


def _shallower(
    network: Network, architecture: Architecture, rng: np.random.Generator
) -> Architecture:
    """Without some blocks, and with some groups' full width; one group at least keeps its own."""
    kept = rng.random(len(network.groups)) < rng.uniform(0, _MOST_KEPT)
    if len(kept):
        kept[rng.integers(len(kept))] = False
    full = {
        group.name: group.width for group, keep in zip(network.groups, kept, strict=True) if keep
    }
    widened = Architecture(widths={**architecture.widths, **full})
    return _without_blocks(network, widened, rng)


def _random(network: Network, menu, rng: np.random.Generator) -> Architecture:
    widths = {group.name: int(rng.choice(menu[group.name])) for group in network.groups}
    return Architecture(widths=widths)


def _without_blocks(
    network: Network, architecture: Architecture, rng: np.random.Generator
) -> Architecture:
    removed = _some_blocks(network, rng) if network.blocks else ()
    return Architecture(widths=architecture.widths, removed=removed)


def _some_blocks(network: Network, rng: np.random.Generator) -> tuple[str, ...]:
    share = rng.uniform(0.1, 0.9)
    return tuple(block.name for block in network.blocks if rng.random() < share)
