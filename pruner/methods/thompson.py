"""Thompson sampling, ours: try what would be best if a draw from what is known were the truth.

Every episode draws what all options are worth from the posterior of an additive model
(`pruner/methods/additive.py`) and scores the architecture of the greatest worth within the budget;
the table says what seconds cost, so nothing is spent on learning that. A combinatorial
semi-bandit (Wen, Kveton and Ashkan 2015, "Efficient learning in large-scale combinatorial
semi-bandits", arXiv 1406.7443) with the knapsack as its oracle.

Deviations:
1. Only the whole architecture's accuracy is seen, not what each decision gave.
2. A draw's distance from the mean is scaled by one of TEMPERATURES: with hundreds of options, full
   draws go on exploring far longer than a search lasts. Where a draw leads to what was scored
   already, a hotter one is taken.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from threadpoolctl import threadpool_limits

from pruner.completion import Completion
from pruner.knapsack import solve_nearly, worth
from pruner.methods.additive import AdditiveLosses
from pruner.methods.settings import SearchSettings
from pruner.problem import SearchProblem

TEMPERATURES = (0.0, 0.25, 0.5, 1.0)  # in turn
HOTTER_BY = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
REFIT = 10  # episodes between choices of the model's spreads


def search_by_thompson(problem: SearchProblem, settings: SearchSettings) -> None:
    """Scores `settings.episodes` architectures, the first of them the knapsack's own answer.

    Where nothing new is found, known ones are scored again. Raises BudgetError.
    """
    completion = Completion(problem.latency, settings.depth)
    completion.require(problem.budget_s, problem.score)
    rng = np.random.default_rng(settings.seed)
    values = worth(completion, problem)
    losses = AdditiveLosses(completion, values)
    positions = solve_nearly(completion, values, problem.budget_s)
    seen: set[tuple[int, ...]] = set()
    for episode in range(settings.episodes):
        if episode:
            with threadpool_limits(1):  # small matrices: more threads only wait for PyTorch's
                if episode % REFIT == 0:
                    losses.fit()
                temperature = TEMPERATURES[(episode - 1) % len(TEMPERATURES)]
                draws = (losses.draw(rng, temperature + hotter_by) for hotter_by in HOTTER_BY)
                positions = _first_new(completion, draws, problem.budget_s, seen)
        accuracy = problem.score(completion.architecture(positions))
        if tuple(positions) not in seen:
            seen.add(tuple(positions))
            losses.observe(positions, accuracy)


def _first_new(
    completion: Completion,
    draws: Iterable[list[np.ndarray]],
    budget_s: float,
    seen: set[tuple[int, ...]],
) -> list[int]:
    """The best architecture by the first draw that does not lead to a known one, or by the last."""
    for values in draws:
        positions = solve_nearly(completion, values, budget_s)
        if tuple(positions) not in seen:
            break
    return positions
