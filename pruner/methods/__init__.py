"""Search methods. A method proposes architectures that meet the problem's budget and scores them.

The best-scored one is the answer; a method returns nothing, its trace is the search log.
"""

from __future__ import annotations

from collections.abc import Callable

from pruner.methods.agents import AGENTS
from pruner.methods.amc import search_amc
from pruner.methods.baselines import search_randomly, search_uniform
from pruner.methods.greedy import search_greedily
from pruner.methods.knapsack import search_knapsack
from pruner.methods.lap import search_by_agent, search_lap
from pruner.methods.magnitude import search_by_magnitude
from pruner.methods.settings import SearchSettings
from pruner.methods.thompson import search_by_thompson
from pruner.problem import SearchProblem

__all__ = ["AGENTS", "METHODS", "Method", "SearchSettings"]

Method = Callable[[SearchProblem, SearchSettings], None]

METHODS: dict[str, Method] = {
    "thompson": search_by_thompson,
    "lap": search_lap,
    "amc": search_amc,
    "rl": search_by_agent,
    "greedy": search_greedily,
    "knapsack": search_knapsack,
    "magnitude": search_by_magnitude,
    "uniform": search_uniform,
    "random": search_randomly,
}
