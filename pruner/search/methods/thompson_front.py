"""Thompson sampling for every budget at once, ours: one model of the losses, many knapsacks.

What options cost in accuracy does not depend on the budget: the additive model that `thompson`
learns within one answers for all of them. Every episode takes the next of several budgets, draws
what options may be worth, and scores the architecture of the greatest worth within it. What was
scored is the front; no candidate is a prediction.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from lookup_tables.registry import OwnSettings
from pruner.search.methods.base import Method
from pruner.search.methods.thompson import TEMPERATURES, sampled
from pruner.search.problem import SearchProblem
from pruner.search.searcher import Search

LARGEST = 0.95  # of the dense network's latency: the largest budget
GOLDEN = (5**0.5 - 1) / 2  # steps of this share of a range fill it evenly, however many there are


class ThompsonFrontSettings(OwnSettings):
    """How many budgets there are."""

    budgets: int = Field(24, ge=2, description="Budgets, from the one that is asked for to dense.")


def search_all_budgets(problem: SearchProblem, settings: ThompsonFrontSettings) -> Search:
    """Scores `problem.episodes` architectures, by turns within one of the budgets."""
    largest_s = max(LARGEST * problem.cost.dense_s, problem.budget_s)
    budgets_s = np.geomspace(problem.budget_s, largest_s, settings.budgets).tolist()
    return sampled(problem, lambda episode: budgets_s[turn(episode, settings.budgets)])


def turn(episode: int, budgets: int) -> int:
    """Which budget an episode has: every one gets each temperature, neighbours lie far apart."""
    cycle = episode // len(TEMPERATURES)  # the first one is the smallest
    return int((cycle * GOLDEN) % 1.0 * budgets)


METHOD = Method(
    "thompson_front",
    "Thompson sampling for all budgets at once; ours",
    search_all_budgets,
    ThompsonFrontSettings,
    gives_front=True,
)
