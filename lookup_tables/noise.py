"""The one meaning of undisturbed, quiet and settled: what counts of what was timed.

Two questions, both answered from what *both* networks did, by the same limits:

1. Undisturbed: did a run have its processors all the time? The system tells how long its threads
   were ready but waited: preemption, a CPU quota, a stopped process, the hypervisor. Such a run
   never counts: what it waited has nothing to do with the network.
2. Quiet: was the machine at its usual speed? A network that takes more than `QUIET` times its own
   quiet level was slowed by something that no system tells: a neighbour's use of caches, memory or
   the other hardware thread.

A selection by one network alone is wrong. Where a round is about as long as a scheduler's time
slice, the wait falls on whichever network is not looked at: networks compared with themselves came
out up to 37 times slower (`benchmarks/results/null_test_before.json`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

WAITED, WAITED_S = 0.01, 20e-6  # a run may wait for this share of it, or for so long
QUIET = 1.08  # a run is quiet up to so many times its network's quiet level
ENOUGH = 6  # rounds
LEVEL = 25  # percentile of a network's undisturbed runs that stands for its level in a series


class Timing(NamedTuple):
    """One run: its wall-clock seconds, and for how many of them its threads waited to run."""

    seconds: float
    waited_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Rounds:
    """Pruned runs, each between two runs of the dense network: n of them and n + 1 dense ones."""

    dense: list[Timing]
    pruned: list[Timing]
    throttled: list[bool]

    @property
    def dense_s(self) -> np.ndarray:
        """(n + 1,) seconds."""
        return np.array([timing.seconds for timing in self.dense])

    @property
    def pruned_s(self) -> np.ndarray:
        """(n,) seconds."""
        return np.array([timing.seconds for timing in self.pruned])

    @property
    def beside_s(self) -> np.ndarray:
        """(n,) the dense network beside each pruned run: the mean of before and after."""
        return (self.dense_s[:-1] + self.dense_s[1:]) / 2

    def undisturbed(self) -> np.ndarray:
        """(n,) rounds in which all three runs had their processors, and no card was throttled.

        Nor may the run before them have waited: whoever ran meanwhile has emptied the caches.
        """
        dense, pruned = undisturbed(self.dense), undisturbed(self.pruned)
        before = np.concatenate([[True], pruned[:-1]])
        return before & dense[:-1] & pruned & dense[1:] & ~np.array(self.throttled, dtype=bool)

    def levels_s(self) -> tuple[float, float] | None:
        """What both networks took here when undisturbed; None where too little was."""
        kept = self.undisturbed()
        if not kept.any():
            return None
        dense_s = self.beside_s[kept]
        return float(np.percentile(dense_s, LEVEL)), float(
            np.percentile(self.pruned_s[kept], LEVEL)
        )

    def quiet(self, dense_level_s: float, pruned_level_s: float) -> np.ndarray:
        """(n,) undisturbed rounds in which both networks were at their quiet level."""
        slowest_dense_s = np.maximum(self.dense_s[:-1], self.dense_s[1:])
        return (
            self.undisturbed()
            & (slowest_dense_s <= QUIET * dense_level_s)
            & (self.pruned_s <= QUIET * pruned_level_s)
        )


def undisturbed(timings: Sequence[Timing]) -> np.ndarray:
    """(n,) runs that had their processors all the time."""
    return np.array([is_undisturbed(timing) for timing in timings], dtype=bool)


def is_undisturbed(timing: Timing) -> bool:
    """Whether a run had its processors all the time."""
    return timing.waited_s <= max(WAITED_S, WAITED * timing.seconds)


def is_quiet(timing: Timing, limit_s: float) -> bool:
    """Undisturbed, and no slower than the limit."""
    return is_undisturbed(timing) and timing.seconds <= limit_s


def rounds_that_count(series: Sequence[Rounds], dense_level_s: float = 0.0) -> list[np.ndarray]:
    """Which rounds count of several series of the same two networks: (n,) booleans for each.

    `dense_level_s`: the dense network's quiet level, 0 while unknown. Where too few rounds were at
    it, the machine is in a slow phase, and the rounds at the quietest level that these series met
    count; the caller knows it by their dense seconds. Disturbed rounds never count: the answer may
    be empty.
    """
    met = [levels for rounds in series if (levels := rounds.levels_s()) is not None]
    if not met:
        return [rounds.undisturbed() for rounds in series]
    dense_s, pruned_s = (min(levels) for levels in zip(*met, strict=True))
    for level_s in (dense_level_s or dense_s, max(dense_s, dense_level_s)):
        kept = [rounds.quiet(level_s, pruned_s) for rounds in series]
        if sum(int(each.sum()) for each in kept) >= ENOUGH:
            return kept
    return kept if any(each.any() for each in kept) else [r.undisturbed() for r in series]
