"""The one meaning of undisturbed, quiet and settled: what counts of what was timed.

Two questions, both answered from what *both* networks did, by the same limits:

1. Undisturbed: did a run have its processors all the time, and the runs before it? The system tells
   how long a run's threads were ready but waited: preemption, a CPU quota, a stopped process, the
   hypervisor. Such a run never counts: what it waited has nothing to do with the network. Nor do
   the first runs after an interruption, whether it fell into a run or between two: whoever ran
   meanwhile has emptied the caches, and the first one is up to four times slower, the second 4 to
   50 %, the third hardly.
2. Quiet: was the machine at its usual speed? Not where a fixed bit of arithmetic took `SLOW_CORE`
   times as long as on the quiet machine: something else shares the core, and ratios move by up to a
   fifth. Nor where a network takes more than `QUIET` times its own quiet level: it was slowed by
   something that no counter tells, such as a neighbour's use of caches and memory.

A selection by one network alone is wrong. Where a round is about as long as a scheduler's time
slice, the wait falls on whichever network is not looked at: networks compared with themselves came
out up to 37 times slower (`benchmarks/results/null_test_before.json`).

The same two limits decide on every scale: rounds of a series, sessions of a comparison, attempts at
one network, networks of a table.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import NamedTuple

import numpy as np

WAITED, WAITED_S = 0.01, 20e-6  # a run may wait for this share of it, or for so long
WARM_RUNS, WARM_S = 2, 0.5e-3  # since the last interruption, before a run counts
# So many times longer than on the quiet machine may a fixed bit of arithmetic take: on a core of
# our own it takes up to 1.13 times, on a shared one 1.6 to 1.9.
SLOW_CORE = 1.25
QUIET = 1.08  # a run is quiet up to so many times its network's quiet level
# Sessions, attempts and networks whose level was so many times the quietest one's met a slow phase;
# where memory lies moves a session's level by a few percent, so the limit is wider than a run's.
SLOW_PHASE = 1.09
ENOUGH = 6  # rounds
SCARCE, PLENTY = 0.25, 20  # a share of the rounds that were timed, and rounds that are enough
LEVEL = 25  # percentile of a network's undisturbed runs that stands for its level in a series
QUIET_RUNS = 75  # percent of a table's networks that are kept, however slow the machine was
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
    """Pruned runs, each between two runs of the dense network: n of them and n + 1 dense ones.

    `slowness`: around each round, how many times longer than on the quiet machine a fixed bit of
    arithmetic took (n of them), infinite for a round that only warms up; none where nothing tells.
    """

    dense: list[Timing]
    pruned: list[Timing]
    throttled: list[bool]
    slowness: list[float] = field(default_factory=list)

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

    def ratio(self, kept: np.ndarray | None = None) -> float:
        """Pruned / dense: the median of each pruned run against the dense ones on both sides.

        `kept`: (n,) which rounds count, all by default. One run is held against one: a mean of two
        has another median than a single run where times scatter to one side, and a network
        compared with itself came out 0.4 % faster.
        """
        return float(np.median(np.concatenate(self.ratios(kept))))

    def ratios(self, kept: np.ndarray | None = None) -> list[np.ndarray]:
        """Of the rounds that count, by the dense run before and by the one after: (kept,) each."""
        kept = np.ones(len(self.pruned), dtype=bool) if kept is None else kept
        pruned_s = self.pruned_s[kept]
        return [pruned_s / self.dense_s[:-1][kept], pruned_s / self.dense_s[1:][kept]]

    def both_dense_s(self, kept: np.ndarray) -> np.ndarray:
        """(2 · kept,) the dense runs on both sides of the rounds that count."""
        return np.concatenate([self.dense_s[:-1][kept], self.dense_s[1:][kept]])

    def undisturbed(self) -> np.ndarray:
        """(n,) rounds in which all three runs had their processors, and no card was throttled."""
        by_turns = chain(
            chain.from_iterable(zip(self.dense[:-1], self.pruned, strict=True)), self.dense[-1:]
        )
        held = undisturbed(by_turns)
        return held[:-2:2] & held[1::2] & held[2::2] & ~np.array(self.throttled, dtype=bool)

    def calm(self) -> np.ndarray:
        """(n,) undisturbed rounds on a core that nothing else shared."""
        if not self.slowness:
            return self.undisturbed()
        return self.undisturbed() & (np.array(self.slowness) <= SLOW_CORE)

    def on_any_core(self) -> Rounds:
        """The same, as if nothing told that the core was shared."""
        return replace(self, slowness=[math.inf if math.isinf(s) else 1.0 for s in self.slowness])

    def shared(self) -> list[float]:
        """How slow the core was in the rounds in which something shared it."""
        return [each for each in self.slowness if SLOW_CORE < each < math.inf]

    def levels_s(self) -> tuple[float, float] | None:
        """What both networks took here when nothing disturbed; None where something always did."""
        kept = self.calm()
        if not kept.any():
            return None
        both_s = self.both_dense_s(kept), self.pruned_s[kept]
        dense_s, pruned_s = (float(np.percentile(each_s, LEVEL)) for each_s in both_s)
        return dense_s, pruned_s

    def quiet(self, dense_level_s: float, pruned_level_s: float) -> np.ndarray:
        """(n,) calm rounds in which both networks were at their quiet level."""
        slowest_dense_s = np.maximum(self.dense_s[:-1], self.dense_s[1:])
        return (
            self.calm()
            & (slowest_dense_s <= QUIET * dense_level_s)
            & (self.pruned_s <= QUIET * pruned_level_s)
        )


def ratio_of(series: Sequence[Rounds], kept: Sequence[np.ndarray] | None = None) -> float:
    """`Rounds.ratio` over several series of the same two networks."""
    masks: Sequence[np.ndarray | None] = [None] * len(series) if kept is None else kept
    both = [rounds.ratios(each) for rounds, each in zip(series, masks, strict=True)]
    return float(np.median(np.concatenate([*chain.from_iterable(both)])))


def undisturbed(timings: Iterable[Timing]) -> np.ndarray:
    """(n,) runs, in their order, that had their processors and warm caches."""
    streak = Streak()
    return np.array([streak.saw(timing) for timing in timings], dtype=bool)


def rounds_that_count(series: Sequence[Rounds], dense_level_s: float = 0.0) -> list[np.ndarray]:
    """Which rounds count of several series of the same two networks: (n,) booleans for each.

    `dense_level_s`: the dense network's quiet level, 0 while unknown. Where too few rounds were at
    it, the machine is in a slow phase, and the rounds at the quietest level that these series met
    count; the caller knows it by their dense seconds. Rounds that were disturbed or on a shared
    core never count: the answer may be empty.
    """
    met = [levels for rounds in series if (levels := rounds.levels_s()) is not None]
    if not met:
        return [rounds.calm() for rounds in series]
    dense_s, pruned_s = (min(levels) for levels in zip(*met, strict=True))
    for level_s in (dense_level_s or dense_s, max(dense_s, dense_level_s)):
        kept = [rounds.quiet(level_s, pruned_s) for rounds in series]
        if sum(int(each.sum()) for each in kept) >= ENOUGH:
            return kept
    return kept if any(each.any() for each in kept) else [rounds.calm() for rounds in series]


def rounds_of_sessions(series: Sequence[Rounds]) -> list[np.ndarray]:
    """The rounds that count of fresh sessions: (n,) booleans for each; none of a slow phase.

    A session met a slow phase if either network's level was more than `SLOW_PHASE` times its
    quietest.
    """
    levels = [rounds.levels_s() for rounds in series]
    met = [level for level in levels if level is not None]
    if not met:
        return [rounds.calm() for rounds in series]
    best = np.min(met, axis=0)
    kept = []
    for rounds, level in zip(series, levels, strict=True):
        near = level is not None and bool(np.all(np.array(level) <= SLOW_PHASE * best))
        (of_session,) = rounds_that_count([rounds])
        kept.append(of_session & near)
    return kept


def is_slow(level_s: float, quiet_s: float) -> bool:
    """Whether something that takes `quiet_s` on a quiet machine met a slow phase."""
    return level_s > SLOW_PHASE * quiet_s


def is_scarce(kept: int, seen: int) -> bool:
    """Whether so few rounds of all that were timed counted that chance decides: a busy machine."""
    return kept < min(SCARCE * seen, PLENTY)


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


def ratio_of_sessions(ratios: Sequence[float], turned: Sequence[bool]) -> tuple[float, float]:
    """The ratio of fresh sessions, and its relative standard error.

    `turned`: which of them opened the pruned network first. Which one is opened first moves both
    by up to half a percent, so the medians of both orders count alike.
    """
    orders = [np.log([r for r, t in zip(ratios, turned, strict=True) if t == o]) for o in (0, 1)]
    orders = [logs for logs in orders if len(logs)]
    middles = [np.median(logs) for logs in orders]
    rest = np.concatenate([logs - mid for logs, mid in zip(orders, middles, strict=True)])
    error = 1.2533 * np.std(rest) / np.sqrt(len(rest))  # √(π/2): a median's, not a mean's
    return float(np.exp(np.mean(middles))), float(error)


def is_null(ratio: float) -> bool:
    """Whether a network compared with itself came out as itself."""
    return abs(np.log(ratio)) <= np.log1p(NULL)
