"""Baselines: what a search must beat. Same table, budget and score."""

from __future__ import annotations

import numpy as np

from lookup_tables.registry import OwnSettings
from pruner.search.completion import Completion
from pruner.search.methods.base import Method, one
from pruner.search.problem import SearchProblem
from pruner.search.searcher import Search
from pruner.search.space import KEPT, REMOVED, Kind


def search_uniform(problem: SearchProblem, settings: OwnSettings) -> Search:
    """The widest uniform share of every group, and of every layer's weights, that fits.

    One evaluation. Menus are coarse: what is left of the budget is spent as the other methods spend
    it, so that networks of equal latency are compared.
    """
    completion = problem.completion
    shares = sorted({width / menu[-1] for menu in completion.menus for width in menu}, reverse=True)
    for share in shares:
        positions = [
            int(np.abs(np.array(menu) / menu[-1] - share).argmin()) for menu in completion.menus
        ]
        if completion.latency_s([positions])[0] <= problem.budget_s:
            yield [completion.architecture(completion.spend(positions, problem.budget_s))]
            return
    # Uniform shares round to widths that are too slow: what follows is not uniform any more.
    yield [completion.fallback(problem.budget_s)]


def search_randomly(problem: SearchProblem, settings: OwnSettings) -> Search:
    """Random architectures within the budget."""
    completion, rng = problem.completion, np.random.default_rng(problem.seed)
    left = problem.episodes
    while left > 0:
        count = min(left, problem.at_once)
        rows = [walk_randomly(completion, problem.budget_s, rng) for _ in range(count)]
        yield [completion.architecture(row) for row in rows]
        left -= count


def walk_randomly(completion: Completion, budget: float, rng: np.random.Generator) -> list[int]:
    """Random options within the budget: each decision in turn, among those it still allows.

    Blocks go with a probability that is drawn once for a network, so that shallow and deep ones
    are tried alike. What is left of the budget is spent as the agent's is.
    """
    positions: list[int] = []
    goes = rng.random() if completion.space.has_blocks else 0.0
    for decision in completion.decisions:
        allowed = np.flatnonzero(completion.allowed(positions, budget))
        if decision.is_block and len(allowed) > 1:
            allowed = np.array([REMOVED if rng.random() < goes else KEPT])
        positions.append(int(rng.choice(allowed)))
    return completion.spend(positions, budget)


UNIFORM = Method(
    "uniform",
    "the widest uniform share of all groups, and of all weights",
    search_uniform,
    decides=frozenset({Kind.WIDTH, Kind.DENSITY}),
    scores=one,
)
RANDOM = Method("random", "random networks within the budget", search_randomly)
