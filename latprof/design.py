"""Which pruned variants of a network to run: an orthogonal array of strength 2.

With q levels per group, q a prime power, run (a, b) in GF(q)² gives group j the level
a·x_j + b·y_j, where (x_j, y_j) is one of the q + 1 directions of the affine plane. Groups with
different directions meet in every pair of levels exactly once; so if groups that share a layer
get different directions, q² runs hold every (input width, output width) pair of every layer
(Hedayat, Sloane, Stufken, "Orthogonal Arrays", 1999, theorem 3.1).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lookup_tables.network import Architecture, ChannelGroup, Network

# x^m modulo the field's irreducible polynomial, as bits: GF(4): x² + x + 1, GF(8): x³ + x + 1.
_BINARY_FIELDS = {4: 0b111, 8: 0b1011}
_PRIMES = (2, 3, 5, 7, 11, 13)
LEVELS = tuple(sorted((*_PRIMES, *_BINARY_FIELDS)))
REMOVALS = 8  # extra runs with blocks removed, so that calibration sees shallower networks


def design(network: Network, levels: int, seed: int) -> list[Architecture]:
    """levels² architectures that hold every pair of widths of every layer, and a few more.

    With removable blocks, some lose a part of them; the dense and the narrowest network come last,
    so that sums of widths behind a concatenation stay within what was measured. Raises
    ValueError if `levels` is not one of LEVELS.
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
    if network.blocks:
        architectures += [_random(network, rng, remove=True) for _ in range(REMOVALS)]
    narrowest = Architecture(widths={group.name: group.choices[0] for group in network.groups})
    return [*architectures, network.dense, narrowest]


def unseen(network: Network, count: int, seed: int, exclude: Sequence[Architecture] = ()):
    """`count` random architectures on the menu, none of them in `exclude`.

    Where the network has removable blocks, every fourth also loses a random part of them. A
    network with too few architectures on its menu also gets widths between the menu's.
    """
    rng = np.random.default_rng([seed, 2])
    taken = {architecture.model_dump_json() for architecture in exclude}
    found: list[Architecture] = []
    tries = 100 * count
    for number in range(2 * tries):
        if len(found) == count:
            break
        remove = bool(network.blocks) and len(found) % 4 == 3
        architecture = _random(network, rng, remove, any_width=number >= tries)
        if architecture.model_dump_json() not in taken:
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


def _width(group: ChannelGroup, level: int, levels: int) -> int:
    """A group with fewer widths than levels repeats them; of more it skips inner ones."""
    count = len(group.choices)
    if count <= levels:
        return group.choices[level * count // levels]
    return group.choices[round(level * (count - 1) / (levels - 1))]


def _random(
    network: Network, rng: np.random.Generator, remove: bool, any_width: bool = False
) -> Architecture:
    widths = {
        group.name: int(rng.integers(group.choices[0], group.width + 1))
        if any_width
        else int(rng.choice(group.choices))
        for group in network.groups
    }
    removed = ()
    if remove:
        share = rng.uniform(0.1, 0.7)
        removed = tuple(block.name for block in network.blocks if rng.random() < share)
    return Architecture(widths=widths, removed=removed)
