"""AMC: an agent that knows multiply-accumulates in place of seconds.

He et al. 2018, "AMC: AutoML for Model Compression" (arXiv 1802.03494). The budget, the state and
the reward know FLOPs only; how many of them meet the latency budget is found beforehand, as a user
would by trying: so many that half of the networks with that many are fast enough.

Deviations:
1. AMC prunes to a share of FLOPs, and its result's latency is what it is; here the share follows
   from the latency budget, and only architectures that the table says meet it count. Where hardly
   any of its latest proposals does, it starts again with fewer FLOPs and the scores that are left.
2. What the best proposal leaves of the latency budget is spent, so that networks of equal latency
   are compared.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace

import numpy as np

from lookup_tables.architecture import Architecture
from lookup_tables.registry import OwnSettings
from pruner.search.completion import Completion
from pruner.search.methods.agent_settings import AgentSettings
from pruner.search.methods.base import Method
from pruner.search.methods.baselines import walk_randomly
from pruner.search.problem import SearchProblem
from pruner.search.searcher import Score, Search, asked_for_scores
from pruner.search.space import Kind

PAPER = AgentSettings(agent="ddpg", actions="widths", reward="error", sensitivity=False)
DRAWN, HALVINGS = 64, 12
FEWER, PATIENCE = 0.9, 0.1  # at most so much of the former FLOPs, after this share of all scores
ENOUGH = 0.1  # of the latest proposals are fast enough


def search_amc(problem: SearchProblem, settings: OwnSettings) -> Search:
    """Score `problem.episodes` architectures at most; the last one meets the budget."""
    return asked_for_scores(lambda score: search_by_macs(problem, score))


def search_by_macs(problem: SearchProblem, score: Score) -> None:
    """The same for who scores candidates when they are proposed."""
    from pruner.search.methods.agents import run_agent, warm_up  # they take seconds to import

    within, in_macs = problem.completion, replace(problem, cost=problem.cost.in_macs())
    completion = in_macs.completion
    budget = matching_budget(completion, problem)
    lowest = completion.model.latency_s(completion.fastest())
    left, tried = problem.episodes - 1, []
    while left > 0 and budget >= lowest:
        waited = warm_up(PAPER, left) + int(PATIENCE * problem.episodes) + 1
        trial = _Trial(problem, score, patience=waited)
        tried.append(trial)
        with suppress(_TooSlow):
            run_agent(replace(in_macs, budget_s=budget, episodes=left), PAPER, trial.score)
            break
        left -= len(trial.fits)
        budget *= min(FEWER, problem.budget_s / trial.fastest_s)
    best = max(tried, key=lambda trial: trial.accuracy, default=None)
    if best is None or best.best is None:  # MACs say nothing about this budget
        score(within.fallback(problem.budget_s))
        return
    positions = within.spend(within.positions(best.best), problem.budget_s)
    score(within.architecture(positions))


@dataclass
class _Trial:
    """Scores of proposals with one share of FLOPs, and the most accurate one that fits."""

    problem: SearchProblem
    scored: Score
    patience: int
    fits: list[bool] = field(default_factory=list)  # of each proposal
    fastest_s: float = np.inf
    best: Architecture | None = None
    accuracy: float = -np.inf

    def score(self, architecture: Architecture) -> float:
        """Raises _TooSlow where hardly any of the latest proposals was fast enough."""
        latest = self.fits[-self.patience :]
        if len(latest) == self.patience and sum(latest) < ENOUGH * self.patience:
            raise _TooSlow
        latency_s = self.problem.cost.latency_s(architecture)
        self.fits.append(latency_s <= self.problem.budget_s)
        accuracy = self.scored(architecture)
        self.fastest_s = min(self.fastest_s, latency_s)
        if self.fits[-1] and accuracy > self.accuracy:
            self.best, self.accuracy = architecture, accuracy
        return accuracy


class _TooSlow(Exception):
    pass


def matching_budget(completion: Completion, problem: SearchProblem) -> float:
    """Of random networks that spend this MACs budget, half meet the latency budget."""
    low = completion.model.latency_s(completion.fastest())
    high = completion.model.dense_s
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        rng = np.random.default_rng([problem.seed, 7])
        drawn = [walk_randomly(completion, middle, rng) for _ in range(DRAWN)]
        found = problem.cost.predict_architectures([completion.architecture(p) for p in drawn])
        if np.median(found.latency_s) <= problem.budget_s:
            low = middle
        else:
            high = middle
    return low


METHOD = Method(
    "amc",
    "AMC's agent: DDPG that counts multiply-accumulates",
    search_amc,
    decides=frozenset({Kind.WIDTH, Kind.BLOCK}),
)
