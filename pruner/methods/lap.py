"""LAP: latency-aware automated pruning (Neural Networks 152, 2022), the search.

A DDPG agent decides every group's width. It knows latency sensitivity in its state, in its feedback
beside the accuracy error, and in its exploration, whose prior cuts where that buys time. The
paper's filter criterion, dynamic selection with regeneration, is `--criterion dynamic`
(`pruner/criteria/dynamic.py`).

Deviations (the paper's code and further tables could not be found):
1. Latency sensitivity, state and reward follow pruner.sensitivity, pruner.env, pruner.rewards.
2. The budget is met by construction instead of by a penalty.
3. Hyperparameters are AMC's, with the deviations of `pruner/methods/agents.py`.
4. With `depth` the agent decides on removable blocks too.
"""

from __future__ import annotations

from dataclasses import replace

from pruner.completion import Completion
from pruner.methods.agents import run_agent
from pruner.methods.settings import SearchSettings
from pruner.problem import SearchProblem

PAPER = {
    "agent": "ddpg",
    "actions": "widths",
    "reward": "error_sensitivity",
    "sensitivity": True,
}


def search_lap(problem: SearchProblem, settings: SearchSettings) -> None:
    """Run the paper's agent for `settings.episodes` episodes; raises BudgetError."""
    search_by_agent(problem, replace(settings, **PAPER))


def search_by_agent(problem: SearchProblem, settings: SearchSettings) -> None:
    """The method `rl`: reinforcement learning with the parts that the settings name.

    A variant of ours of what LAP does, with another agent, reward or kind of action, or without
    latency sensitivity. Raises BudgetError.
    """
    completion = Completion(problem.latency, settings.depth)
    completion.require(problem.budget_s, problem.score)
    run_agent(problem, completion, settings)
