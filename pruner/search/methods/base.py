"""Method: a way to search, with settings of its own; what commands and reports know of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lookup_tables.registry import OwnSettings
from pruner.search.problem import SearchProblem
from pruner.search.searcher import Search
from pruner.search.space import Kind


def one(_settings: OwnSettings) -> int:
    """Of methods that score their answer alone."""
    return 1


@dataclass(frozen=True)
class Method:
    """A search method. `make(problem, settings)` proposes candidates that meet the budget.

    `check(problem, settings)` raises where its settings do not allow that.
    """

    name: str
    summary: str  # one line of --help
    make: Callable[[SearchProblem, Any], Search]
    settings: type[OwnSettings] = OwnSettings
    decides: frozenset[Kind] = frozenset(Kind)
    scores: Callable[[Any], int] | None = None  # how many candidates, whatever --episodes says
    check: Callable[[SearchProblem, Any], None] = lambda *_: None  # before a run has a folder
    gives_front: bool = False  # what it scored is a front, beside the best within the budget

    @property
    def scores_one(self) -> bool:
        """Whether it scores one candidate, however many it may."""
        return self.scores is one

    @property
    def only_blocks(self) -> bool:
        """Whether it decides nothing else."""
        return self.decides == {Kind.BLOCK}

    def kinds(self, depth: bool, density: bool = False) -> frozenset[Kind]:
        """What it decides where removing blocks, or leaving out weights, is allowed or is not.

        A method that only removes blocks always may.
        """
        left_out = {Kind.BLOCK: not (depth or self.only_blocks), Kind.DENSITY: not density}
        return frozenset(kind for kind in self.decides if not left_out.get(kind))
