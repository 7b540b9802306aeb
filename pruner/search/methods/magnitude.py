"""Global magnitude: one threshold for the whole network on what its channels weigh.

What Torch-Pruning does by default (Fang et al. 2023, "DepGraph", arXiv 2301.12900, section 3.3,
with global ranking): channels are scored by `pruner/criteria/coupled.py`, and the lowest of the
network go first. The threshold is the lowest whose network meets the latency budget.

Deviations:
1. Widths are rounded up to multiples of ROUND_TO, as its users do to keep runtimes fast; never
   below what the table has measured.
2. Torch-Pruning asks for a share of channels; here the table's latency decides how many. Steps of
   ROUND_TO are coarse: what they leave of the budget buys the channels of the greatest magnitude
   for their seconds, so that networks of equal latency are compared.
3. It says how many channels every layer keeps; which ones, the criterion that all methods share.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from lookup_tables.architecture import Architecture
from lookup_tables.registry import OwnSettings
from pruner.search.completion import Completion
from pruner.search.methods.base import Method, one
from pruner.search.problem import SearchProblem
from pruner.search.searcher import Search
from pruner.search.space import Kind

ROUND_TO = 8


def search_by_magnitude(problem: SearchProblem, settings: OwnSettings) -> Search:
    """Scores one architecture."""
    yield [above_a_threshold(problem, problem.magnitudes())]


def above_a_threshold(problem: SearchProblem, of_channels: Mapping[str, ArrayLike]) -> Architecture:
    """The channels above one threshold, the lowest that meets the budget.

    `of_channels`: group → (width,), on one scale; what else it holds is not looked at.
    """
    completion = problem.completion
    scores = {name: np.sort(np.asarray(of_channels[name])) for name in problem.network.group}
    thresholds = np.unique(np.concatenate([[0.0], *scores.values(), [np.inf]]))
    # Latency need not fall with every channel: the first threshold from below that fits.
    for start in range(0, len(thresholds), 256):
        some = [_above(problem, scores, t) for t in thresholds[start : start + 256]]
        fits = problem.cost.predict_architectures(some).latency_s <= problem.budget_s
        if fits.any():
            return _spent(problem, completion, scores, some[int(fits.argmax())])
    return completion.fallback(problem.budget_s)


def _spent(
    problem: SearchProblem,
    completion: Completion,
    scores: dict[str, np.ndarray],
    architecture: Architecture,
) -> Architecture:
    """Widened on the menu until the budget is spent, or as it is if it is off the menu and the
    menu's next smaller network is no faster."""
    values, positions = [], []
    for decision in completion.decisions:
        width = architecture.widths[decision.name]
        weights = np.cumsum(scores[decision.name][::-1])
        values.append(np.array([weights[int(option) - 1] for option in decision.options]))
        positions.append(max(0, int(np.searchsorted(decision.options, width, side="right")) - 1))
    if completion.latency_s([positions])[0] > problem.budget_s:
        return architecture
    return completion.architecture(completion.spend(positions, problem.budget_s, values))


def _above(problem: SearchProblem, scores: dict[str, np.ndarray], threshold: float) -> Architecture:
    widths = {}
    for group in problem.network.groups:
        kept = int((scores[group.name] > threshold).sum())
        rounded = -(-kept // ROUND_TO) * ROUND_TO
        lowest = problem.cost.lowest_widths[group.name]
        stays = group.choices == (group.width,)
        widths[group.name] = int(np.clip(rounded, group.width if stays else lowest, group.width))
    return Architecture(widths=widths)


METHOD = Method(
    "magnitude",
    "one threshold on channel magnitude for the whole network, as Torch-Pruning's default",
    search_by_magnitude,
    decides=frozenset({Kind.WIDTH}),
    scores=one,
)
