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

import numpy as np

from lookup_tables.network import Architecture
from pruner.completion import Completion
from pruner.methods.settings import SearchSettings
from pruner.problem import SearchProblem

ROUND_TO = 8


def search_by_magnitude(problem: SearchProblem, settings: SearchSettings) -> None:
    """Scores one architecture; raises BudgetError."""
    completion = Completion(problem.latency)
    completion.require(problem.budget_s, problem.score)
    scores = {name: np.sort(np.asarray(values)) for name, values in problem.magnitudes().items()}
    thresholds = np.unique(np.concatenate([[0.0], *scores.values(), [np.inf]]))
    # Latency need not fall with every channel: the first threshold from below that fits.
    for start in range(0, len(thresholds), 256):
        some = [_above(problem, scores, t) for t in thresholds[start : start + 256]]
        fits = problem.latency.predict_architectures(some).latency_s <= problem.budget_s
        if fits.any():
            problem.score(_spent(problem, completion, scores, some[int(fits.argmax())]))
            return
    problem.score(completion.fallback(problem.budget_s))


def _spent(
    problem: SearchProblem,
    completion: Completion,
    scores: dict[str, np.ndarray],
    architecture: Architecture,
) -> Architecture:
    """Widened on the menu until the budget is spent, or as it is if it is off the menu and the
    menu's next smaller network is no faster."""
    values, positions = [], []
    for choice in completion.choices:
        width = architecture.widths[choice.name]
        weights = np.cumsum(scores[choice.name][::-1])
        values.append(np.array([weights[option - 1] for option in choice.options]))
        positions.append(max(0, int(np.searchsorted(choice.options, width, side="right")) - 1))
    if completion.latency_s([positions])[0] > problem.budget_s:
        return architecture
    return completion.architecture(completion.spend(positions, problem.budget_s, values))


def _above(problem: SearchProblem, scores: dict[str, np.ndarray], threshold: float) -> Architecture:
    widths = {}
    for group in problem.network.groups:
        kept = int((scores[group.name] > threshold).sum())
        rounded = -(-kept // ROUND_TO) * ROUND_TO
        lowest = problem.latency.lowest_widths[group.name]
        stays = group.choices == (group.width,)
        widths[group.name] = int(np.clip(rounded, group.width if stays else lowest, group.width))
    return Architecture(widths=widths)
