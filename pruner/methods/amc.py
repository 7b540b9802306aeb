"""AMC: the same agent, with multiply-accumulates in place of seconds.

He et al. 2018, "AMC: AutoML for Model Compression" (arXiv 1802.03494). The budget, the state and
the reward know FLOPs only; how many of them meet the latency budget is found beforehand, as a user
would by trying: so many that half of the networks with that many are fast enough.

Deviations:
1. AMC prunes to a share of FLOPs, and its result's latency is what it is; here the share follows
   from the latency budget, and only architectures that the table says meet it count. If none of
   its proposals does, it starts again with fewer FLOPs.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lookup_tables.network import Architecture
from pruner.completion import Completion
from pruner.methods.baselines import walk_randomly
from pruner.methods.lap import run_agent
from pruner.methods.settings import SearchSettings
from pruner.task import Task

DRAWN, HALVINGS = 64, 12
FEWER = 0.95


def search_amc(task: Task, settings: SearchSettings) -> None:
    """Run the agent for `settings.episodes` episodes; raises BudgetError."""
    within = Completion(task.latency, settings.depth)
    within.require(task.budget_s, task.score)
    completion = Completion(task.latency.in_macs(), settings.depth)
    budget = matching_budget(completion, task, settings)
    fits = False

    def score(architecture: Architecture) -> float:
        nonlocal fits
        fits = fits or task.latency.latency_s(architecture) <= task.budget_s
        return task.score(architecture)

    plain = replace(settings, reward="error", sensitivity=False)
    lowest = completion.model.latency_s(completion.fastest())
    while not fits:
        if budget < lowest:  # MACs say nothing about this budget
            task.score(within.fastest())
            return
        by_macs = replace(task, latency=completion.model, budget_s=budget, score=score)
        run_agent(by_macs, completion, plain)
        budget *= FEWER


def matching_budget(completion: Completion, task: Task, settings: SearchSettings) -> float:
    """Of random networks that spend this MACs budget, half meet the latency budget."""
    low = completion.model.latency_s(completion.fastest())
    high = completion.model.dense_s
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        rng = np.random.default_rng([settings.seed, 7])
        drawn = [walk_randomly(completion, middle, rng, settings.depth) for _ in range(DRAWN)]
        found = task.latency.predict_architectures([completion.architecture(p) for p in drawn])
        if np.median(found.latency_s) <= task.budget_s:
            low = middle
        else:
            high = middle
    return low
