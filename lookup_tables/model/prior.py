"""A table read by another device's: what layers take here is a multiple of what they take there.

On a device of a kind already known a layer takes a multiple of what it takes there. The multiple
differs between kinds of layers, families (one layer at other widths) and classes of widths (those
that the runtime takes in whole steps, and others), and changes slowly with the widths. A Gaussian
process over its logarithm learns it from the layers of a few networks, and answers for all layers
of the other table (Rasmussen and Williams, "Gaussian Processes for Machine Learning" (2006),
equation 2.25). docs/decisions/transfer.md says what it is worth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from lookup_tables.layer import LayerSpec
from lookup_tables.model.gp import Conditioned
from lookup_tables.model.surface import MIXING, ChannelStep, Surface
from lookup_tables.table.prior import Prior

# Relative standard deviations of the multiple: what layers of the whole network have in common,
# those of one kind, of one family, of one class of widths, and of like widths.
_ALL, _KIND, _FAMILY = 0.5, 0.3, 0.3
_CLASS, _CLASS_OF_FAMILY = 0.3, 0.3
_NEAR, _NEAR_OF_KIND = 0.2, 0.15
_LENGTH, _LENGTH_OF_KIND = 1.0, 2.0  # octaves of width over which multiples resemble each other
_NOISE, _FLOOR = 0.1, 0.03  # of a layer in one run, and what more runs do not mend
_INTERPOLATED = 0.07  # of what the other table says of widths it did not measure

Shares = dict[LayerSpec, float]


def corrected(
    prior: Prior, shares: Shares, nodes: Shares, counts: Mapping[LayerSpec, int]
) -> tuple[Shares, Shares]:
    """Shares and nodes of every layer of either, as this device has them.

    `shares`, `nodes`: what was measured here; `counts`: by how many runs.
    """
    known = {one.layer: one for one in prior.layers}
    there, interpolated = _shares_of(prior, [*shares])
    here = np.array([*shares.values()])
    prior_nodes = {spec: one.nodes for spec, one in known.items()}
    fused = [prior_nodes.get(spec) == 0 or nodes.get(spec) == 0 for spec in shares]
    usable = ~(np.isnan(there) | fused)  # what was fused away has a token, not a time
    seen = [spec for spec, use in zip(shares, usable, strict=True) if use]
    ratio = np.log(here[usable] / there[usable])
    noise = _NOISE**2 / np.array([counts[spec] for spec in seen]) + _FLOOR**2
    noise += np.where(interpolated[usable], _INTERPOLATED**2, 0.0)
    process = Conditioned(_kernel(prior, seen, seen), noise, ratio)
    logs = process.mean(_kernel(prior, seen, [*known]))
    answer = {
        spec: one.share * float(np.exp(log))
        for (spec, one), log in zip(known.items(), logs, strict=True)
    }
    used = {*seen}
    own = {s: share for s, share in shares.items() if s not in known or s not in used}
    return answer | own, prior_nodes | nodes


def _shares_of(prior: Prior, specs: Sequence[LayerSpec]) -> tuple[np.ndarray, np.ndarray]:
    """(the other device's shares, whether interpolated): (specs,); NaN where it has none."""
    points: dict[tuple, dict] = {}
    for one in prior.layers:
        widths = (one.layer.in_channels, one.layer.out_channels)
        points.setdefault(one.layer.family, {})[widths] = one.share
    surfaces = {
        family: Surface(
            values, ChannelStep(*prior.steps.get(family[0], (1, 1))), family[0] in MIXING
        )
        for family, values in points.items()
    }
    shares, interpolated = np.full(len(specs), np.nan), np.ones(len(specs), dtype=bool)
    for i, spec in enumerate(specs):
        if spec.family in surfaces:
            x, y = np.array([spec.in_channels]), np.array([spec.out_channels])
            (shares[i],), (interpolated[i],) = surfaces[spec.family](x, y)
    return shares, interpolated


def _kernel(prior: Prior, left: Sequence[LayerSpec], right: Sequence[LayerSpec]) -> np.ndarray:
    """Covariance of the log multiples: (left, right)."""
    kind, family, classes = (
        _same([key(spec) for spec in left], [key(spec) for spec in right])
        for key in (lambda s: s.kind, lambda s: s.family, lambda s: _classes(prior, s))
    )
    apart = sum(
        np.subtract.outer(np.log2([w(s) for s in left]), np.log2([w(s) for s in right])) ** 2
        for w in (lambda s: s.in_channels, lambda s: s.out_channels)
    )
    near, near_of_kind = (np.exp(-0.5 * apart / n**2) for n in (_LENGTH, _LENGTH_OF_KIND))
    return (
        _ALL**2
        + kind * (_KIND**2 + _NEAR_OF_KIND**2 * near_of_kind)
        + family * (_FAMILY**2 + _NEAR**2 * near)
        + classes * (_CLASS**2 + _CLASS_OF_FAMILY**2 * family)
    )


def _classes(prior: Prior, spec: LayerSpec) -> tuple:
    step = ChannelStep(*prior.steps.get(spec.kind, (1, 1)))
    widths = np.array([spec.in_channels, spec.out_channels])
    return (spec.kind, *map(int, step.classes(widths)))


def _same(left: Sequence, right: Sequence) -> np.ndarray:
    """Whether two keys are equal, as 0 and 1: (left, right)."""
    numbers = {key: number for number, key in enumerate({*left, *right})}
    one, other = (np.array([numbers[key] for key in keys]) for keys in (left, right))
    return np.equal.outer(one, other).astype(float)
