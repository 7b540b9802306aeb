"""The exact knapsack's answer as a baseline (`pruner/search/knapsack.py`), with Taylor's importance
(`pruner/criteria/taylor.py`), the sum over the layers that write a channel, or with another
criterion's scores of filters (`pruner/criteria/layers.py`)."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from pydantic import Field

from lookup_tables.registry import OwnSettings
from pruner.search.knapsack import solve, worth
from pruner.search.methods.base import Method, one
from pruner.search.problem import SearchProblem
from pruner.search.searcher import Search


class KnapsackSettings(OwnSettings):
    """What channels and blocks are worth."""

    worth: Literal[
        "taylor", "weight_magnitude", "weight_taylor", "gate_taylor", "feature_map_taylor",
        "batch_norm",
    ] = Field("taylor", description="By what channels and blocks are judged.")  # fmt: skip


def search_knapsack(problem: SearchProblem, settings: KnapsackSettings) -> Search:
    """Scores one architecture: the solution of the integer programme. Raises SearchError."""
    completion = problem.completion
    if settings.worth != "taylor":
        scores = problem.filter_scores(settings.worth)
        problem = replace(problem, importance=lambda: scores)
    values = worth(completion, problem)
    positions = solve(completion, values, problem.budget_s)
    # The solver stops within a share of the optimum: what it leaves is spent, as by all methods.
    yield [completion.architecture(completion.spend(positions, problem.budget_s, values))]


METHOD = Method(
    "knapsack",
    "the exact knapsack of channel importance, in the manner of HALP",
    search_knapsack,
    KnapsackSettings,
    scores=one,
)
