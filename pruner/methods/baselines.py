"""Baselines: what a search must beat. Same table, budget and score."""

from __future__ import annotations

import numpy as np

from pruner.completion import Completion
from pruner.methods.settings import SearchSettings
from pruner.task import Task


def search_uniform(task: Task, settings: SearchSettings) -> None:
    """The widest uniform share of every group that meets the budget; one evaluation."""
    completion = Completion(task.latency)
    completion.require(task.budget_s, task.score)
    shares = sorted({width / menu[-1] for menu in completion.menus for width in menu}, reverse=True)
    for share in shares:
        architecture = completion.architecture(
            [int(np.abs(np.array(menu) / menu[-1] - share).argmin()) for menu in completion.menus]
        )
        if task.latency.latency_s(architecture) <= task.budget_s:
            task.score(architecture)
            return
    # Uniform shares round to widths that are too slow: the fastest network is all that is left.
    task.score(completion.fastest())


def search_randomly(task: Task, settings: SearchSettings) -> None:
    """Random widths within the budget: each group in turn, among those it still allows.

    What is left of the budget is spent as the agent's is.
    """
    completion = Completion(task.latency)
    completion.require(task.budget_s, task.score)
    rng = np.random.default_rng(settings.seed)
    for _ in range(settings.episodes):
        positions: list[int] = []
        for _ in completion.menus:
            allowed = np.flatnonzero(completion.allowed(positions, task.budget_s))
            positions.append(int(rng.choice(allowed)))
        task.score(completion.architecture(completion.spend(positions, task.budget_s)))
