"""Thompson sampling, ours: try what would be best if a draw from what is known were the truth.

Every episode draws what all options are worth from the posterior of an additive model
(`additive.py`) and scores the architecture of the greatest worth within the budget. The table says
what seconds cost, so nothing is spent on learning that. A combinatorial semi-bandit (Wen, Kveton
and Ashkan 2015, "Efficient learning in large-scale combinatorial semi-bandits", arXiv 1406.7443)
with the knapsack as its oracle.

Deviations:
1. Only the whole architecture's accuracy is seen, not what each decision gave.
2. A draw's distance from the mean is scaled by one of TEMPERATURES: with hundreds of options, full
   draws go on exploring far longer than a search lasts. Where a draw leads to what was scored
   already, a hotter one is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
from threadpoolctl import threadpool_limits

from lookup_tables.registry import OwnSettings
from pruner.search.knapsack import solve_nearly, worth
from pruner.search.methods.additive import AdditiveLosses
from pruner.search.methods.base import Method
from pruner.search.problem import SearchProblem
from pruner.search.searcher import Search

TEMPERATURES = (0.0, 0.25, 0.5, 1.0)  # in turn
HOTTER_BY = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
REFIT = 10  # episodes between choices of the model's spreads


def search_by_thompson(problem: SearchProblem, settings: OwnSettings) -> Search:
    """Scores `problem.episodes` architectures, the first of them the knapsack's own answer.

    Where nothing new is found, known ones are scored again.
    """
    return sampled(problem, lambda _: problem.budget_s)


def sampled(problem: SearchProblem, budget_s: Callable[[int], float]) -> Search:
    """The same, each episode within a budget of its own: `budget_s` of its number."""
    completion, sampler = problem.completion, _Sampler(problem)
    episode = 0
    while episode < problem.episodes:
        count = min(problem.at_once, problem.episodes - episode)
        batch: list[list[int]] = []
        for number in range(episode, episode + count):
            batch.append(sampler.propose(number, batch, budget_s(number)))
        scored = yield [completion.architecture(positions) for positions in batch]
        for positions, each in zip(batch, scored, strict=True):
            sampler.observe(positions, each.accuracy)
        episode += count


class _Sampler:
    """What was learned so far, and the next proposal that follows from it."""

    def __init__(self, problem: SearchProblem) -> None:
        self._completion = problem.completion
        self._rng = np.random.default_rng(problem.seed)
        self._values = worth(self._completion, problem)
        self._losses = AdditiveLosses(self._completion, self._values)
        self._seen: set[tuple[int, ...]] = set()

    def propose(self, episode: int, beside: Collection[list[int]], budget_s: float) -> list[int]:
        """The positions to score next; not those that are scored `beside`, if others are found."""
        if not self._seen:
            return solve_nearly(self._completion, self._values, budget_s)
        with threadpool_limits(1):  # small matrices: more threads only wait for PyTorch's
            if episode % REFIT == 0:
                self._losses.fit()
            temperature = TEMPERATURES[(episode - 1) % len(TEMPERATURES)]
            taken = self._seen | {tuple(positions) for positions in beside}
            for hotter_by in HOTTER_BY:
                values = self._losses.draw(self._rng, temperature + hotter_by)
                positions = solve_nearly(self._completion, values, budget_s)
                if tuple(positions) not in taken:
                    break
        return positions

    def observe(self, positions: list[int], accuracy: float) -> None:
        if tuple(positions) not in self._seen:
            self._seen.add(tuple(positions))
            self._losses.observe(positions, accuracy)


METHOD = Method(
    "thompson",
    "Thompson sampling over an additive model of the losses; ours",
    search_by_thompson,
)
