"""Greedy: take, step by step, the cheapest bite in accuracy that buys a slice of latency.

NetAdapt (Yang et al. 2018, arXiv 1804.03230, algorithm 1): every iteration asks for a little less
latency; for every layer it finds the largest width that gives it, and keeps the most accurate one.

Deviations:
1. Latencies come from the table's sum over the whole network, so couplings are exact.
2. An iteration scores only the FEW bites that looked best when they were last scored (a lazy greedy
   search, Minoux 1978); before the first iteration every decision's smallest bite is scored once.
   So the number of scores allows for many small slices: latency falls in equal steps.
3. No short-term fine-tuning within the loop; candidates are scored as the other methods' are.
4. With depth, removing a block is one of the bites.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from pruner.completion import Completion
from pruner.methods.settings import SearchSettings
from pruner.problem import SearchProblem, log_accuracy

FEW = 4


def search_greedily(problem: SearchProblem, settings: SearchSettings) -> None:
    """Scores up to `settings.episodes` architectures on the way down; the last one fits.

    Raises BudgetError.
    """
    completion = Completion(problem.latency, settings.depth)
    completion.require(problem.budget_s, problem.score)
    positions: list[int] | None = [len(choice.options) - 1 for choice in completion.choices]
    dense_s = float(completion.latency_s([positions])[0])
    search = _Greedy(completion, problem, settings.episodes - 1)
    steps = search.look(positions)
    for step in range(1, steps + 1):
        positions = search.bite(positions, dense_s + (problem.budget_s - dense_s) * step / steps)
        if positions is None:  # nothing near is faster
            problem.score(completion.fallback(problem.budget_s))
            return
    positions = completion.spend(positions, problem.budget_s)
    problem.score(completion.architecture(positions))


@dataclass
class _Greedy:
    """What is known of every decision: the log accuracy that its last scored bite cost a second."""

    completion: Completion
    problem: SearchProblem
    left: int  # scores
    accuracy: float = 1.0  # of the present architecture
    price: dict[int, float] = field(default_factory=dict)

    def look(self, positions: list[int]) -> int:
        """Score the dense network and, while half of the scores last, every decision's smallest
        bite; how many iterations are left then."""
        if self.left > 1:
            self.left -= 1
            self.accuracy = self.problem.score(self.completion.architecture(positions))
        now_s = float(self.completion.latency_s([positions])[0])
        found = self._reduced(positions, now_s * (1 - 1e-9))
        found = [bite for bite in found if bite[1] < now_s * (1 - 1e-9)]
        for index, seconds, smaller in found[: self.left // 2]:
            self._score(index, now_s - seconds, smaller)
        return max(1, self.left // FEW)

    def bite(self, positions: list[int], target_s: float) -> list[int] | None:
        """The most accurate of the FEW most promising architectures that meet the target.

        Where no single decision is enough, the one that buys most is taken, and then another; None
        where none buys anything.
        """
        start_s = now_s = float(self.completion.latency_s([positions])[0])
        while now_s > target_s * (1 + 1e-9):
            found = self._reduced(positions, target_s)
            met = sorted((b for b in found if b[1] <= target_s), key=lambda b: self._cost(b, now_s))
            if met and self.left < 1:
                return met[0][2]
            if met:
                few = met[: min(FEW, self.left)]
                scores = [self._score(index, start_s - s, p) for index, s, p in few]
                self.accuracy = max(scores)
                return few[int(np.argmax(scores))][2]
            _, best_s, best = min(found, key=lambda b: b[1], default=(0, now_s, positions))
            if best_s >= now_s:
                return None
            now_s, positions = best_s, best
        return positions

    def _cost(self, bite: tuple[int, float, list[int]], now_s: float) -> float:
        """The log accuracy that a bite would cost by what is known; the unknown look free."""
        index, seconds, _ = bite
        return self.price.get(index, 0.0) * (now_s - seconds)

    def _score(self, index: int, saved_s: float, positions: list[int]) -> float:
        self.left -= 1
        accuracy = self.problem.score(self.completion.architecture(positions))
        lost = log_accuracy(self.accuracy) - log_accuracy(accuracy)
        self.price[index] = lost / saved_s
        return accuracy

    def _reduced(self, positions: list[int], target_s: float) -> list[tuple[int, float, list[int]]]:
        """(decision, seconds, positions): each one reduced, just enough where one is enough."""
        found = []
        for index, position in enumerate(positions):
            if self.completion.is_gone(index, positions):
                continue
            smaller = [
                self.completion.canonical([*positions[:index], p, *positions[index + 1 :]])
                for p in reversed(range(position))
            ]
            if smaller:
                seconds = self.completion.latency_s(smaller)
                enough = np.flatnonzero(seconds <= target_s)
                best = int(enough[0]) if len(enough) else int(seconds.argmin())
                found.append((index, float(seconds[best]), smaller[best]))
        return found
