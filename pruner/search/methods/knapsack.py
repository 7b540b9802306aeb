"""The exact knapsack's answer as a baseline (`pruner/search/knapsack.py`), with Taylor's importance
(`pruner/criteria/taylor.py`), the sum over the layers that write a channel."""

from __future__ import annotations

from lookup_tables.registry import OwnSettings
from pruner.search.knapsack import solve, worth
from pruner.search.methods.base import Method
from pruner.search.problem import SearchProblem
from pruner.search.searcher import Search


def search_knapsack(problem: SearchProblem, settings: OwnSettings) -> Search:
    """Scores one architecture: the solution of the integer programme. Raises SearchError."""
    completion = problem.completion
    values = worth(completion, problem)
    positions = solve(completion, values, problem.budget_s)
    # The solver stops within a share of the optimum: what it leaves is spent, as by all methods.
    yield [completion.architecture(completion.spend(positions, problem.budget_s, values))]


METHOD = Method(
    "knapsack",
    "the exact knapsack of channel importance, in the manner of HALP",
    search_knapsack,
    scores_one=True,
)
