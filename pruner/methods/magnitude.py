"""Global magnitude: one threshold for the whole network on what its channels weigh.

What Torch-Pruning does by default (Fang et al. 2023, "DepGraph", arXiv 2301.12900, section 3.3,
with global ranking): channels are scored by `pruner/filters/coupled.py`, and the lowest of the
network go first. The threshold is the lowest whose network meets the latency budget.

Deviations:
1. Widths are rounded up to multiples of ROUND_TO, as its users do to keep runtimes fast; never
   below what the table has measured.
2. Torch-Pruning asks for a share of channels; here the table's latency decides how many.
"""

from __future__ import annotations

import numpy as np

from lookup_tables.network import Architecture
from pruner.completion import Completion
from pruner.methods.settings import SearchSettings
from pruner.task import Task

ROUND_TO = 8


def search_by_magnitude(task: Task, settings: SearchSettings) -> None:
    """Scores one architecture; raises BudgetError."""
    completion = Completion(task.latency)
    completion.require(task.budget_s, task.score)
    scores = {name: np.sort(np.asarray(values)) for name, values in task.magnitudes().items()}
    thresholds = np.unique(np.concatenate([[0.0], *scores.values(), [np.inf]]))
    # Latency need not fall with every channel: the first threshold from below that fits.
    for start in range(0, len(thresholds), 256):
        some = [_above(task, scores, t) for t in thresholds[start : start + 256]]
        fits = task.latency.predict_architectures(some).latency_s <= task.budget_s
        if fits.any():
            task.score(some[int(fits.argmax())])
            return
    task.score(completion.fastest())


def _above(task: Task, scores: dict[str, np.ndarray], threshold: float) -> Architecture:
    widths = {}
    for group in task.network.groups:
        kept = int((scores[group.name] > threshold).sum())
        rounded = -(-kept // ROUND_TO) * ROUND_TO
        lowest = task.latency.lowest_widths[group.name]
        widths[group.name] = int(np.clip(rounded, lowest, group.width))
    return Architecture(widths=widths)
