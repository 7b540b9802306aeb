"""Reinforcement learning with parts to choose from: variants of ours of what LAP does.

Another agent, another kind of action, another reward, or no latency sensitivity. `lap` and `amc`
are the same search with the parts that their papers name.
"""

from __future__ import annotations

from pruner.search.methods.agent_settings import AgentSettings
from pruner.search.methods.base import Method
from pruner.search.problem import SearchProblem
from pruner.search.searcher import Search, asked_for_scores
from pruner.search.space import Kind


def search_by_agent(problem: SearchProblem, settings: AgentSettings) -> Search:
    """Run an agent for `problem.episodes` episodes."""
    from pruner.search.methods.agents import run_agent  # its libraries take seconds to import

    return asked_for_scores(lambda score: run_agent(problem, settings, score))


METHOD = Method(
    "rl",
    "reinforcement learning, its parts to choose; ours",
    search_by_agent,
    AgentSettings,
    decides=frozenset({Kind.WIDTH, Kind.BLOCK}),
)
