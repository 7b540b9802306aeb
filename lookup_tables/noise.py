"""The one meaning of undisturbed, quiet and settled: what counts of what was timed.

Two questions, both answered from what *both* networks did, by the same limits:

1. Undisturbed: did a run have its processors all the time, and the runs before it? The system tells
   how long a run's threads were ready but waited: preemption, a CPU quota, a stopped process, the
   hypervisor. Such a run never counts: what it waited has nothing to do with the network. Nor do
   the first runs after an interruption, whether it fell into a run or between two: whoever ran
   meanwhile has emptied the caches, and the first one is up to four times slower, the second 4 to
   50 %, the third hardly.
2. Quiet: was the machine at its usual speed? A network that takes more than `QUIET` times its own
   quiet level was slowed by something that no counter tells: a neighbour's use of caches, memory or
   the other hardware thread.

A selection by one network alone is wrong. Where a round is about as long as a scheduler's time
slice, the wait falls on whichever network is not looked at: networks compared with themselves came
out up to 37 times slower (`benchmarks/results/null_test_before.json`).

The same two limits decide on every scale: rounds of a series, sessions of a comparison, attempts at
one network, networks of a table.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np

WAITED, WAITED_S = 0.01, 20e-6  # a run may wait for this share of it, or for so long
WARM_RUNS, WARM_S = 2, 0.5e-3  # since the last interruption, before a run counts
QUIET = 1.08  # a run is quiet up to so many times its network's quiet level
# Sessions, attempts and networks whose level was so many times the quietest one's met a slow phase;
# where memory lies moves a session's level by a few percent, so the limit is wider than a run's.
SLOW_PHASE = 1.09
ENOUGH = 6  # rounds
LEVEL = 25  # percentile of a network's undisturbed runs that stands for its level in a series
QUIET_RUNS = 75  # percent of a table's networks that are kept, however slow the machine was
# So many times longer than on the quiet machine may fixed works take: arithmetic, streaming through
# memory, reading it at random. An idle machine's probes lie within.
SLOW_WORKS = (1.06, 1.15, 1.3)
NULL = 0.03  # a network compared with itself may be off by so much; more is a refusal


class Timing(NamedTuple):
    """One run: its wall-clock seconds, and how long its threads did not run when they could.

    `away_s`: between the run before and this one.
    """

    seconds: float
    waited_s: float = 0.0
    away_s: float = 0.0


class Streak:
    """Follows a series run by run: how far back the last interruption lies."""

    def __init__(self) -> None:
        self._runs, self._seconds = WARM_RUNS, WARM_S  # a series begins warmed up

    def saw(self, timing: Timing) -> bool:
        """Take note of the next run; whether it was undisturbed, and enough runs before it."""
        limit_s = max(WAITED_S, WAITED * timing.seconds)
        if timing.away_s > limit_s:
            self._runs, self._seconds = 0, 0.0
        counts = self._runs >= WARM_RUNS and self._seconds >= WARM_S * (1 - 1e-9)
        if timing.waited_s > limit_s:
            self._runs, self._seconds = 0, 0.0
            return False
        self._runs, self._seconds = self._runs + 1, self._seconds + timing.seconds
        return counts


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

    @property
    def ratios(self) -> np.ndarray:
        """(n,) pruned / dense."""
        return self.pruned_s / self.beside_s

    def undisturbed(self) -> np.ndarray:
        """(n,) rounds in which all three runs had their processors, and no card was throttled."""
        by_turns = chain(
            chain.from_iterable(zip(self.dense[:-1], self.pruned, strict=True)), self.dense[-1:]
        )
        held = undisturbed(by_turns)
        return held[:-2:2] & held[1::2] & held[2::2] & ~np.array(self.throttled, dtype=bool)

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


def undisturbed(timings: Iterable[Timing]) -> np.ndarray:
    """(n,) runs, in their order, that had their processors and warm caches."""
    streak = Streak()
    return np.array([streak.saw(timing) for timing in timings], dtype=bool)


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


def rounds_of_sessions(series: Sequence[Rounds], slow: Sequence[bool] = ()) -> list[np.ndarray]:
    """The rounds that count of fresh sessions: (n,) booleans for each; none of a slow phase.

    A session met a slow phase if either network's level was more than `SLOW_PHASE` times its
    quietest, or if something else says so: `slow`, one for each session.
    """
    levels = [rounds.levels_s() for rounds in series]
    met = [level for level in levels if level is not None]
    if not met:
        return [rounds.undisturbed() for rounds in series]
    best = np.min(met, axis=0)
    kept = []
    for i, (rounds, level) in enumerate(zip(series, levels, strict=True)):
        near = level is not None and bool(np.all(np.array(level) <= SLOW_PHASE * best))
        (of_session,) = rounds_that_count([rounds])
        kept.append(of_session & (near and not (slow and slow[i])))
    return kept


def is_slow(level_s: float, quiet_s: float) -> bool:
    """Whether something that takes `quiet_s` on a quiet machine met a slow phase."""
    return level_s > SLOW_PHASE * quiet_s


def is_slow_phase(slowness: Sequence[float]) -> list[bool]:
    """For each fixed work, whether it took too much longer than on the quiet machine."""
    return [times > most for times, most in zip(slowness, SLOW_WORKS, strict=True)]


def quiet_level_s(levels_s: Sequence[float]) -> float:
    """What the dense network takes on a quiet machine, by many measurements; 0 for none."""
    return float(np.percentile(levels_s, 10)) if len(levels_s) else 0.0


def attempts_that_count(loudest_s: Sequence[float]) -> np.ndarray:
    """(n,) attempts at one network that met no slower phase than the quietest of them."""
    return ~np.array([is_slow(each_s, min(loudest_s)) for each_s in loudest_s], dtype=bool)


def networks_that_count(dense_s: Sequence[float], loudest_s: Sequence[float]) -> np.ndarray:
    """(n,) networks of a table that met a quiet moment: at least three quarters of them.

    By the dense network beside each, in its median and in its louder series of rounds; never by
    how well a network is predicted, which would flatter the table.
    """
    limit_s = max(SLOW_PHASE * quiet_level_s(dense_s), np.percentile(loudest_s, QUIET_RUNS))
    return np.array(loudest_s) <= limit_s


def steady_mean(values: np.ndarray) -> np.ndarray:
    """(rounds, …) → (…): the mean without an eighth at the fast end and a quarter at the slow one.

    Where a clock counts coarsely a mean resolves what a median would round; interruptions only add.
    """
    ordered = np.sort(values, axis=0)
    n = len(ordered)
    return ordered[n // 8 : max(n // 8 + 1, 3 * n // 4)].mean(axis=0)


def uncertainty(ratios: Sequence[float]) -> float:
    """The relative standard error of the median of fresh sessions' ratios."""
    logs = np.log(ratios)
    scatter = 1.4826 * np.median(np.abs(logs - np.median(logs)))
    return float(1.2533 * scatter / np.sqrt(len(ratios)))  # √(π/2): a median's, not a mean's


def is_null(ratio: float) -> bool:
    """Whether a network compared with itself came out as itself."""
    return abs(np.log(ratio)) <= np.log1p(NULL)
