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

from lookup_tables.network import Architecture
from pruner.completion import Completion
from pruner.methods.agents import run_agent, warm_up
from pruner.methods.baselines import walk_randomly
from pruner.methods.settings import SearchSettings
from pruner.problem import SearchProblem

PAPER = {"agent": "ddpg", "actions": "widths", "reward": "error", "sensitivity": False}
DRAWN, HALVINGS = 64, 12
FEWER, PATIENCE = 0.9, 0.1  # at most so much of the former FLOPs, after this share of all scores
ENOUGH = 0.1  # of the latest proposals are fast enough


def search_amc(problem: SearchProblem, settings: SearchSettings) -> None:
    """Score `settings.episodes` architectures at most; the last one meets the budget.

    Raises BudgetError.
    """
    within = Completion(problem.latency, settings.depth)
    within.require(problem.budget_s, problem.score)
    completion = Completion(problem.latency.in_macs(), settings.depth)
    budget = matching_budget(completion, problem, settings)
    lowest = completion.model.latency_s(completion.fastest())
    plain = replace(settings, **PAPER)
    left, tried = settings.episodes - 1, []
    while left > 0 and budget >= lowest:
        now = replace(plain, episodes=left)
        trial = _Trial(problem, patience=warm_up(now) + int(PATIENCE * settings.episodes) + 1)
        tried.append(trial)
        by_macs = replace(problem, latency=completion.model, budget_s=budget, score=trial.score)
        with suppress(_TooSlow):
            run_agent(by_macs, completion, now)
            break
        left -= len(trial.fits)
        budget *= min(FEWER, problem.budget_s / trial.fastest_s)
    best = max(tried, key=lambda trial: trial.accuracy, default=None)
    if best is None or best.best is None:  # MACs say nothing about this budget
        problem.score(within.fallback(problem.budget_s))
        return
    positions = within.spend(within.positions(best.best), problem.budget_s)
    problem.score(within.architecture(positions))


@dataclass
class _Trial:
    """Scores of proposals with one share of FLOPs, and the most accurate one that fits."""

    problem: SearchProblem
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
        latency_s = self.problem.latency.latency_s(architecture)
        self.fits.append(latency_s <= self.problem.budget_s)
        accuracy = self.problem.score(architecture)
        self.fastest_s = min(self.fastest_s, latency_s)
        if self.fits[-1] and accuracy > self.accuracy:
            self.best, self.accuracy = architecture, accuracy
        return accuracy


class _TooSlow(Exception):
    pass


def matching_budget(
    completion: Completion, problem: SearchProblem, settings: SearchSettings
) -> float:
    """Of random networks that spend this MACs budget, half meet the latency budget."""
    low = completion.model.latency_s(completion.fastest())
    high = completion.model.dense_s
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        rng = np.random.default_rng([settings.seed, 7])
        drawn = [walk_randomly(completion, middle, rng, settings.depth) for _ in range(DRAWN)]
        found = problem.latency.predict_architectures([completion.architecture(p) for p in drawn])
        if np.median(found.latency_s) <= problem.budget_s:
            low = middle
        else:
            high = middle
    return low
