"""Search methods: each proposes architectures within a budget, and is told their scores.

A method is a file and an entry here. What a method proposes last is not its answer: the
best-scored network within the budget is, and the log of all scores.
"""

from __future__ import annotations

from lookup_tables.registry import Registry
from pruner.search.methods import (
    abcp,
    amc,
    baselines,
    filters,
    greedy,
    jcw,
    knapsack,
    lap,
    layerprune,
    magnitude,
    rl,
    thompson,
    thompson_front,
)
from pruner.search.methods.base import Method

METHODS: Registry[Method] = Registry(
    "method",
    (
        thompson.METHOD,
        thompson_front.METHOD,
        lap.METHOD,
        abcp.METHOD,
        jcw.METHOD,
        layerprune.METHOD,
        amc.METHOD,
        rl.METHOD,
        greedy.METHOD,
        knapsack.METHOD,
        magnitude.METHOD,
        filters.METHOD,
        baselines.UNIFORM,
        baselines.RANDOM,
    ),
)
