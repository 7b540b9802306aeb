"""SearchProblem: what a search is asked to solve, and what it may ask.

A search proposes candidates and is told their scores; it never scores one itself
(`pruner/search/searcher.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from lookup_tables.model.latency_model import LatencyModel
from lookup_tables.network import Network
from pruner.search.completion import Completion
from pruner.search.space import SearchSpace

LEAST = 1e-3  # an accuracy below this is taken for it: its logarithm would drown all others


@dataclass(frozen=True)
class SearchProblem:
    """One pruning problem: what is decided, what it costs, and how much of that may be spent.

    Methods take it for granted that the budget can be met: `completion.require` asks.

    `importance`, `weights_importance` and `magnitudes` are asked by the methods that need them: a
    value for every channel of every group (and of every removable block, by
    `Network.key_of`), for every
    hundredth of every sparse layer's weights, and groups' L2 norms. `layer_scores(criterion,
    removed)` has what every block that is left is worth once others are removed, and
    `filter_scores(criterion)` what `importance` has, both by a layer criterion.
    """

    space: SearchSpace
    cost: LatencyModel  # seconds from the table, or multiply-accumulates
    budget_s: float
    episodes: int = 300  # candidates that may be scored
    at_once: int = 1  # candidates whose scores are not waited for, one by one
    seed: int = 0
    importance: Callable[[], Mapping[str, ArrayLike]] = dict
    magnitudes: Callable[[], Mapping[str, ArrayLike]] = dict
    weights_importance: Callable[[], Mapping[str, ArrayLike]] = dict
    layer_scores: Callable[[str, Sequence[str]], Mapping[str, float]] = lambda *_: {}
    filter_scores: Callable[[str], Mapping[str, ArrayLike]] = lambda _: {}

    @property
    def network(self) -> Network:
        return self.space.network

    @cached_property
    def completion(self) -> Completion:
        """What the budget still allows of half-decided architectures."""
        return Completion(self.cost, self.space)


def log_accuracy(accuracy: float) -> float:
    """Natural logarithm; losses of parts of a network add up in it, more or less."""
    return float(np.log(max(accuracy, LEAST)))
