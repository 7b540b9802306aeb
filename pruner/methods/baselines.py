"""Baselines: what a search must beat. Same table, budget and score."""

from __future__ import annotations

import numpy as np

from pruner.choices import KEPT, REMOVED
from pruner.completion import Completion
from pruner.methods.settings import SearchSettings
from pruner.problem import SearchProblem


def search_uniform(problem: SearchProblem, settings: SearchSettings) -> None:
    """The widest uniform share of every group that meets the budget; one evaluation.

    Menus are coarse: what is left of the budget is spent as the other methods spend it, so that
    networks of equal latency are compared.
    """
    completion = Completion(problem.latency)
    completion.require(problem.budget_s, problem.score)
    shares = sorted({width / menu[-1] for menu in completion.menus for width in menu}, reverse=True)
    for share in shares:
        positions = [
            int(np.abs(np.array(menu) / menu[-1] - share).argmin()) for menu in completion.menus
        ]
        if completion.latency_s([positions])[0] <= problem.budget_s:
            problem.score(completion.architecture(completion.spend(positions, problem.budget_s)))
            return
    # Uniform shares round to widths that are too slow: what follows is not uniform any more.
    problem.score(completion.fallback(problem.budget_s))


def search_randomly(problem: SearchProblem, settings: SearchSettings) -> None:
    """Random architectures within the budget."""
    completion = Completion(problem.latency, settings.depth)
    completion.require(problem.budget_s, problem.score)
    rng = np.random.default_rng(settings.seed)
    for _ in range(settings.episodes):
        positions = walk_randomly(completion, problem.budget_s, rng, settings.depth)
        problem.score(completion.architecture(positions))


def walk_randomly(
    completion: Completion, budget: float, rng: np.random.Generator, depth: bool
) -> list[int]:
    """Random options within the budget: each decision in turn, among those it still allows.

    Blocks go with a probability that is drawn once for a network, so that shallow and deep ones
    are tried alike. What is left of the budget is spent as the agent's is.
    """
    positions: list[int] = []
    goes = rng.random() if depth else 0.0
    for choice in completion.choices:
        allowed = np.flatnonzero(completion.allowed(positions, budget))
        if choice.is_block and len(allowed) > 1:
            allowed = [REMOVED if rng.random() < goes else KEPT]
        positions.append(int(rng.choice(allowed)))
    return completion.spend(positions, budget)
