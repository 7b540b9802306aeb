"""The exact knapsack's answer as a baseline (`pruner/knapsack.py`), with Taylor's importance
(`pruner/criteria/taylor.py`), the sum over the layers that write a channel."""

from __future__ import annotations

from pruner.completion import Completion
from pruner.knapsack import solve, worth
from pruner.methods.settings import SearchSettings
from pruner.problem import SearchProblem


def search_knapsack(problem: SearchProblem, settings: SearchSettings) -> None:
    """Scores one architecture: the solution of the integer programme. Raises BudgetError."""
    completion = Completion(problem.latency, settings.depth)
    completion.require(problem.budget_s, problem.score)
    values = worth(completion, problem)
    positions = solve(completion, values, problem.budget_s)
    # The solver stops within a share of the optimum: what it leaves is spent, as by all methods.
    problem.score(completion.architecture(completion.spend(positions, problem.budget_s, values)))
