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

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import numpy as np

from lookup_tables.architecture import Architecture
from lookup_tables.registry import OwnSettings
from pruner.search.completion import Completion
from pruner.search.methods.base import Method
from pruner.search.problem import SearchProblem, log_accuracy
from pruner.search.searcher import Scored, Search

FEW = 4
T = TypeVar("T")


class Bite(NamedTuple):
    """One decision reduced: which, the seconds of the architecture that this leaves, and it."""

    decision: int
    seconds: float
    positions: list[int]


Asking = Generator[list[Architecture], list[Scored], T]  # a part of a search, and what it returns


def search_greedily(problem: SearchProblem, settings: OwnSettings) -> Search:
    """Scores up to `problem.episodes` architectures on the way down; the last one fits."""
    completion = problem.completion
    positions = [len(d.options) - 1 for d in completion.decisions]
    dense_s = float(completion.latency_s([positions])[0])
    search = _Greedy(completion, problem.episodes - 1)
    steps = yield from search.look(positions)
    for step in range(1, steps + 1):
        target_s = dense_s + (problem.budget_s - dense_s) * step / steps
        bitten = yield from search.bite(positions, target_s)
        if bitten is None:  # nothing near is faster
            yield [completion.fallback(problem.budget_s)]
            return
        positions = bitten
    positions = completion.spend(positions, problem.budget_s)
    yield [completion.architecture(positions)]


@dataclass
class _Greedy:
    """What is known of every decision: the log accuracy that its last scored bite cost a second."""

    completion: Completion
    left: int  # scores
    accuracy: float = 1.0  # of the present architecture
    price: dict[int, float] = field(default_factory=dict)

    def look(self, positions: list[int]) -> Asking[int]:
        """Score the dense network and, while half of the scores last, every decision's smallest
        bite; how many iterations are left then."""
        if self.left > 1:
            self.left -= 1
            (dense,) = yield [self.completion.architecture(positions)]
            self.accuracy = dense.accuracy
        now_s = float(self.completion.latency_s([positions])[0])
        found = self._reduced(positions, now_s * (1 - 1e-9))
        found = [bite for bite in found if bite.seconds < now_s * (1 - 1e-9)]
        some = found[: self.left // 2]
        if some:
            yield from self._score(some, now_s)
        return max(1, self.left // FEW)

    def bite(self, positions: list[int], target_s: float) -> Asking[list[int] | None]:
        """The most accurate of the FEW most promising architectures that meet the target.

        Where no single decision is enough, the one that buys most is taken, and then another; None
        where none buys anything.
        """
        start_s = now_s = float(self.completion.latency_s([positions])[0])
        while now_s > target_s * (1 + 1e-9):
            found = self._reduced(positions, target_s)
            enough = [bite for bite in found if bite.seconds <= target_s]
            enough.sort(key=lambda bite: self._cost(bite, now_s))
            if enough and self.left < 1:
                return enough[0].positions
            if enough:
                few = enough[: min(FEW, self.left)]
                scores = yield from self._score(few, start_s)
                self.accuracy = max(scores)
                return few[int(np.argmax(scores))].positions
            best = min(found, key=lambda bite: bite.seconds, default=Bite(0, now_s, positions))
            if best.seconds >= now_s:
                return None
            now_s, positions = best.seconds, best.positions
        return positions

    def _cost(self, bite: Bite, now_s: float) -> float:
        """The log accuracy that a bite would cost by what is known; the unknown look free."""
        return self.price.get(bite.decision, 0.0) * (now_s - bite.seconds)

    def _score(self, bites: Sequence[Bite], before_s: float) -> Asking[list[float]]:
        """The accuracies of some bites; what each cost a second is remembered."""
        self.left -= len(bites)
        scored = yield [self.completion.architecture(bite.positions) for bite in bites]
        for bite, each in zip(bites, scored, strict=True):
            lost = log_accuracy(self.accuracy) - log_accuracy(each.accuracy)
            self.price[bite.decision] = lost / (before_s - bite.seconds)
        return [each.accuracy for each in scored]

    def _reduced(self, positions: list[int], target_s: float) -> list[Bite]:
        """Each decision reduced, just enough where one is enough."""
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
                found.append(Bite(index, float(seconds[best]), smaller[best]))
        return found


METHOD = Method("greedy", "the cheapest bite in accuracy, step by step (NetAdapt)", search_greedily)
