"""The exact knapsack's answer as a baseline (`pruner/knapsack.py`), with Taylor's importance
(`pruner/filters/taylor.py`), the sum over the layers that write a channel."""

from __future__ import annotations

from pruner.completion import Completion
from pruner.knapsack import solve, worth
from pruner.methods.settings import SearchSettings
from pruner.task import Task


def search_knapsack(task: Task, settings: SearchSettings) -> None:
    """Scores one architecture: the solution of the integer programme. Raises BudgetError."""
    completion = Completion(task.latency, settings.depth)
    completion.require(task.budget_s, task.score)
    values = worth(completion, task)
    positions = solve(completion, values, task.budget_s)
    # The solver stops within a share of the optimum: what it leaves is spent, as by all methods.
    task.score(completion.architecture(completion.spend(positions, task.budget_s, values)))
