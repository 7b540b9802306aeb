"""Reinforcement learning with parts to choose from: variants of ours of what LAP does.

LAP's agent as it learns from scores alone, and with another agent, another kind of action, another
reward, or no latency sensitivity. `amc` is the same search with the parts that its paper names.
"""

from __future__ import annotations

from pruner.search.methods.agent_settings import AgentSettings
from pruner.search.methods.base import Method
from pruner.search.methods.rewards import reward_by
from pruner.search.problem import SearchProblem
from pruner.search.searcher import Search, asked_for_scores
from pruner.search.space import Kind


def search_by_agent(problem: SearchProblem, settings: AgentSettings) -> Search:
    """Run an agent for `problem.episodes` episodes."""
    from pruner.search.methods.agents import run_agent  # its libraries take seconds to import

    return asked_for_scores(lambda score: run_agent(problem, settings, score))


def require_reward(problem: SearchProblem, settings: AgentSettings) -> None:
    """Raise SearchError for a reward of a user's that cannot be loaded."""
    reward_by(settings.reward)


METHOD = Method(
    "rl",
    "reinforcement learning, its parts to choose; ours",
    search_by_agent,
    AgentSettings,
    decides=frozenset({Kind.WIDTH, Kind.BLOCK}),
    check=require_reward,
)
