"""Search methods. A method proposes architectures that meet the task's budget and scores them.

The best-scored one is the answer; a method returns nothing, its trace is the search log.
"""

from __future__ import annotations

from collections.abc import Callable

from pruner.methods.baselines import search_randomly, search_uniform
from pruner.methods.lap import search_lap
from pruner.methods.settings import SearchSettings
from pruner.task import Task

Method = Callable[[Task, SearchSettings], None]

METHODS: dict[str, Method] = {
    "lap": search_lap,
    "uniform": search_uniform,
    "random": search_randomly,
}
