"""SearchProblem: what a search is asked to solve, and what it may ask.

A search is a function of a problem and a seed. It asks for scores; every answer is written down
before it is used (`pruner/search_log.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from lookup_tables.estimate import LatencyModel
from lookup_tables.network import Architecture, Network

LEAST = 1e-3  # an accuracy below this is taken for it: its logarithm would drown all others


@dataclass
class SearchProblem:
    """One pruning problem: a network, its latency model, a budget, and a score for candidates.

    `importance` and `magnitudes` are asked by the methods that need them: a value for every channel
    of every group (and of every removable block, under its name), and groups' L2 norms.
    """

    network: Network
    latency: LatencyModel
    budget_s: float
    score: Callable[[Architecture], float]  # accuracy on held-out training images
    importance: Callable[[], Mapping[str, ArrayLike]] = dict
    magnitudes: Callable[[], Mapping[str, ArrayLike]] = dict


def log_accuracy(accuracy: float) -> float:
    """Natural logarithm; losses of parts of a network add up in it, more or less."""
    return float(np.log(max(accuracy, LEAST)))
