"""LAP: latency-aware automated pruning (Neural Networks 152, 2022), the search.

A DDPG agent decides every group's width. It knows latency sensitivity in its state, in its feedback
beside the accuracy error, and in its exploration, whose prior cuts where that buys time. The
paper's filter criterion, dynamic selection with regeneration, is `--criterion dynamic`
(`pruner/criteria/dynamic.py`).

Deviations (the paper's code and further tables could not be found):
1. Latency sensitivity, state and reward follow `pruner/search/sensitivity.py`, `env.py` and
   `rewards.py`.
2. The budget is met by construction instead of by a penalty.
3. Hyperparameters are AMC's, with the deviations of `pruner/search/methods/agents.py`.
4. With `depth` the agent decides on removable blocks too.
"""

from __future__ import annotations

from lookup_tables.registry import OwnSettings
from pruner.search.methods.agent_settings import AgentSettings
from pruner.search.methods.base import Method
from pruner.search.methods.rl import search_by_agent
from pruner.search.problem import SearchProblem
from pruner.search.searcher import Search
from pruner.search.space import Kind

PAPER = AgentSettings(agent="ddpg", actions="widths", reward="error_sensitivity", sensitivity=True)


def search_lap(problem: SearchProblem, settings: OwnSettings) -> Search:
    """Run the paper's agent for `problem.episodes` episodes."""
    return search_by_agent(problem, PAPER)


METHOD = Method(
    "lap",
    "LAP's agent: DDPG that knows latency sensitivity",
    search_lap,
    decides=frozenset({Kind.WIDTH, Kind.BLOCK}),
)
