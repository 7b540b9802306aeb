"""Which pruned variants of a network to run: an orthogonal array of strength 2.

With q levels per group, q a prime power, run (a, b) in GF(q)² gives group j the level
a·x_j + b·y_j, where (x_j, y_j) is one of the q + 1 directions of the affine plane. Groups with
different directions meet in every pair of levels exactly once; so if groups that share a layer
get different directions, q² runs hold every (input width, output width) pair of every layer
(Hedayat, Sloane, Stufken, "Orthogonal Arrays", 1999, theorem 3.1). On a device whose kernels leave
out weights, every layer's density is one more factor of the array: each density meets every input
width and every output width of its layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lookup_tables.architecture import Architecture
from lookup_tables.model.latency_model import DENSITIES
from lookup_tables.network import ChannelGroup, Network

# x^m modulo the field's irreducible polynomial, as bits: GF(4): x² + x + 1, GF(8): x³ + x + 1.
_BINARY_FIELDS = {4: 0b111, 8: 0b1011}
_PRIMES = (2, 3, 5, 7, 11, 13)
LEVELS = tuple(sorted((*_PRIMES, *_BINARY_FIELDS)))
_MOST_MISSES = 1000  # draws that gave nothing new before a network counts as exhausted
SMALLER = 12  # extra runs of thin and shallow networks, so that calibration holds for them too
_MOST_KEPT = 0.8  # share of the groups that keep their full width in a wide, shallow network


class Factor(NamedTuple):
    """What the array varies: a group's width, or a layer's density."""

    name: str
    is_density: bool = False


def design(
    network: Network, levels: int, seed: int, sparse: Sequence[str] = ()
) -> list[Architecture]:
    """The corners, levels² architectures that hold every pair of widths of every layer, and more.

    First the dense and the narrowest network: whatever lies between can be predicted from then
    on, sums of widths behind a concatenation too. The others follow in random order, so that any
    part of the list is a fair sample: the array, and thin or shallow networks. `sparse`: the layers
    whose densities vary too. Raises ValueError if `levels` is not one of LEVELS.
    """
    rng = np.random.default_rng([seed, 1])
    directions = _assign_directions(network, levels, rng, sparse)
    factors = [*map(Factor, (group.name for group in network.groups))]
    factors += [Factor(name, is_density=True) for name in sparse]
    shuffles = {factor: rng.permutation(levels) for factor in factors}
    multiply, add = field(levels)
    architectures = []
    for a in range(levels):
        for b in range(levels):
            at = {
                factor: int(shuffles[factor][add[multiply[a, x], multiply[b, y]]])
                for factor, (x, y) in directions.items()
            }
            widths = {g.name: _width(g, at[Factor(g.name)], levels) for g in network.groups}
            density = {name: _density(at[Factor(name, True)], levels) for name in sparse}
            architectures.append(_with_density(Architecture(widths=widths), density))
    menu = {group.name: level_widths(group, levels) for group in network.groups}
    smaller = [_smaller(network, menu, rng) for _ in range(min(SMALLER, levels**2))]
    if sparse:  # as many once more: some dense and thin, some wide and sparse throughout
        smaller += [_with_density(one, _alike(sparse, rng)) for one in smaller]
        smaller += [_with_density(network.dense, _alike(sparse, rng)) for _ in smaller]
    architectures += smaller
    narrowest = Architecture(
        widths={g.name: g.choices[0] if sparse else narrowest_width(g) for g in network.groups},
        density=dict.fromkeys(sparse, DENSITIES[0]),
    )
    shuffled = [architectures[i] for i in rng.permutation(len(architectures))]
    return [network.dense, narrowest, *shuffled]


def _density(level: int, levels: int) -> float:
    """A level of the array as one of DENSITIES, the full one among them."""
    return DENSITIES[round(level * (len(DENSITIES) - 1) / (levels - 1))]


def _with_density(architecture: Architecture, density: Mapping[str, float]) -> Architecture:
    kept = {name: share for name, share in density.items() if share < 1}
    return architecture.model_copy(update={"density": kept})


def _alike(sparse: Sequence[str], rng: np.random.Generator) -> dict[str, float]:
    """Densities from the menu, up to a random one in all layers."""
    most = rng.integers(1, len(DENSITIES))
    return {name: DENSITIES[rng.integers(0, most)] for name in sparse}


def with_densities(
    network: Network, architecture: Architecture, rng: np.random.Generator, on_menu: bool
) -> Architecture:
    """The same with densities in a random range, on their menu or any, of all sparse layers.

    No group is narrower than its menu: a block of output channels costs the same however few of
    them are used, and fewer weights are what densities are for.
    """
    sparse = network.sparse_layers
    widths = {g.name: max(architecture.widths[g.name], g.choices[0]) for g in network.groups}
    architecture = architecture.model_copy(update={"widths": widths})
    low, high = np.sort(rng.uniform(DENSITIES[0], 1.0, 2))
    drawn = rng.uniform(low, high, len(sparse))
    if on_menu:
        drawn = np.array(DENSITIES)[np.abs(np.subtract.outer(drawn, DENSITIES)).argmin(axis=1)]
    shares = (round(float(share), 3) for share in drawn)
    return _with_density(architecture, dict(zip(sparse, shares, strict=True)))


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
    sparse: Sequence[str] = (),
) -> list[Architecture]:
    """`count` random architectures, none of them in `exclude`: by turns on the menu and any width.

    `menu` maps groups to widths; without it the network's own. `sparse`: layers whose weights may
    be left out; every network has densities then, on their menu or any.

    Where the network has blocks with shortcuts, every second of either kind also loses a random
    part of them, and every fourth keeps some groups' full width as well, as networks do that a
    search found. A network with too few architectures on its menu gets other widths instead, and
    loses blocks more often. A longer list begins with the shorter one.
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
        if network.shortcuts and (len(found) % 4 >= 2 or stuck):
            lose = _shallower if len(found) % 8 >= 4 else _without_blocks
            architecture = lose(network, architecture, rng)
        if sparse:
            architecture = with_densities(network, architecture, rng, not off_menu)
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


def _assign_directions(
    network: Network, levels: int, rng, sparse: Sequence[str] = ()
) -> dict[Factor, tuple[int, int]]:
    """A direction per factor, different for factors that share a layer (greedy colouring).

    Where more than levels + 1 groups meet (wide concatenations), the rarest is used twice; the
    pairs it misses are interpolated.
    """
    directions = [(1, slope) for slope in range(levels)] + [(0, 1)]
    neighbours = _neighbours(network)
    factors = sorted(neighbours, key=lambda factor: -len(neighbours[factor]))
    for name in sparse:
        factors.append(Factor(name, is_density=True))
        neighbours[factors[-1]] = _met_in(network, name)
    chosen: dict[Factor, int] = {}
    for factor in factors:
        taken = [chosen[met] for met in neighbours[factor] if met in chosen]
        uses = [taken.count(i) for i in range(len(directions))]
        free = [i for i, n in enumerate(uses) if n == min(uses)]
        chosen[factor] = int(rng.choice(free))
    return {factor: directions[i] for factor, i in chosen.items()}


def _neighbours(network: Network) -> dict[Factor, set[Factor]]:
    """Group → the groups it shares a layer with."""
    neighbours: dict[Factor, set[Factor]] = {Factor(group.name): set() for group in network.groups}
    for layer in network.layers:
        met = _met_in(network, layer.name)
        for factor in met:
            neighbours[factor] |= met - {factor}
    return neighbours


def _met_in(network: Network, layer: str) -> set[Factor]:
    """The groups whose widths a layer reads or writes."""
    geometry = network.geometry[layer]
    return {Factor(name) for name, _ in (*geometry.in_form.factors, *geometry.out_form.factors)}


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
    removed = _some_blocks(network, rng) if network.shortcuts else ()
    return architecture.model_copy(update={"removed": removed})


def _some_blocks(network: Network, rng: np.random.Generator) -> tuple[str, ...]:
    share = rng.uniform(0.1, 0.9)
    return tuple(block.name for block in network.shortcuts if rng.random() < share)
