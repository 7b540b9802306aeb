"""Greedy: take, step by step, the cheapest bite in accuracy that buys a slice of latency.

NetAdapt (Yang et al. 2018, arXiv 1804.03230, algorithm 1): every iteration asks for a little less
latency; for every layer it finds the largest width that gives it, and keeps the most accurate one.

Deviations:
1. Latencies come from the table's sum over the whole network, so couplings are exact.
2. The slice is as large as the number of scores allows: latency falls in equal steps.
3. No short-term fine-tuning within the loop; candidates are scored as the other methods' are.
4. With depth, removing a block is one of the bites.
"""

from __future__ import annotations

import numpy as np

from pruner.completion import Completion
from pruner.methods.settings import SearchSettings
from pruner.task import Task


def search_greedily(task: Task, settings: SearchSettings) -> None:
    """Scores up to `settings.episodes` architectures on the way down; the last one fits.

    Raises BudgetError.
    """
    completion = Completion(task.latency, settings.depth)
    completion.require(task.budget_s, task.score)
    positions: list[int] | None = [len(choice.options) - 1 for choice in completion.choices]
    steps = max(1, (settings.episodes - 1) // len(completion.choices))
    most = max(1, (settings.episodes - 1) // steps)
    start_s = float(completion.latency_s([positions])[0])
    for step in range(1, steps + 1):
        target_s = start_s + (task.budget_s - start_s) * step / steps
        positions = _bite(completion, task, positions, target_s, most)
        if positions is None:  # nothing near is faster
            positions = completion.positions(completion.fastest())
            break
    positions = completion.spend(positions, task.budget_s)
    task.score(completion.architecture(positions))


def _bite(
    completion: Completion, task: Task, positions: list[int], target_s: float, most: int
) -> list[int] | None:
    """The most accurate of the architectures that reduce one decision until the target is met.

    Where no single decision is enough, the one that buys most is taken, and then another; None
    where none buys anything. Of more than `most` that meet it the slowest are scored: they lose
    least.
    """
    now_s = float(completion.latency_s([positions])[0])
    while now_s > target_s * (1 + 1e-9):
        found = _reduced(completion, positions, target_s)
        met = sorted((row for row in found if row[0] <= target_s), reverse=True)[:most]
        if met:
            return max(
                (row for _, row in met), key=lambda r: task.score(completion.architecture(r))
            )
        best_s, best = min(found, default=(now_s, positions))
        if best_s >= now_s:
            return None
        now_s, positions = best_s, best
    return positions


def _reduced(
    completion: Completion, positions: list[int], target_s: float
) -> list[tuple[float, list[int]]]:
    """(seconds, positions): every decision reduced, just enough where one is enough."""
    found = []
    for index, position in enumerate(positions):
        if completion.is_gone(index, positions):
            continue
        smaller = [
            completion.canonical([*positions[:index], p, *positions[index + 1 :]])
            for p in reversed(range(position))
        ]
        if smaller:
            seconds = completion.latency_s(smaller)
            enough = np.flatnonzero(seconds <= target_s)
            best = int(enough[0]) if len(enough) else int(seconds.argmin())
            found.append((float(seconds[best]), smaller[best]))
    return found
