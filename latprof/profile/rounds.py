"""Rounds: the dense network and a pruned one by turns, until enough of them were quiet.

Which rounds count is decided in lookup_tables/noise.py. What is between two timed runs is kept out
of both: notes of the machine are taken between rounds, and for short runs after several of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from latprof.machine.cores import Cores
from latprof.machine.pace import Pace
from latprof.runtimes.base import Monitor
from lookup_tables.noise import ENOUGH, QUIET, SLOW_CORE, Rounds, Streak, Timing

PATIENCE, PATIENCE_IN_PLACE = 3, 6  # times the planned rounds, while too few were quiet
SHORT_S, AT_ONCE_S = 1e-3, 24e-3  # runs shorter than this go by several rounds at once
FOR_A_CORE = 10  # times as long, while hardly a round had its core to itself
HOPELESS = 1  # times the planned rounds, if all of them had to wait for their processors


def run_rounds(
    run_dense: Callable[[], Timing],
    run_pruned: Callable[[], Timing],
    planned: int,
    quiet_s: float,
    cores: Cores,
    monitor: Monitor,
    pace: Pace,
    enough: int | None = None,
) -> Rounds:
    """Rounds until `enough` were quiet, until patience ends, or until there is no hope.

    `planned`: how many one would run if all were quiet, by which patience is measured; as many are
    enough unless told. `quiet_s`: the dense network's time when nothing disturbs, 0 while unknown.
    What is slow or has to wait goes on from another core.
    """
    limit_s = quiet_s * QUIET or np.inf
    # Several cores are quiet at once more rarely, and there is no other place to go to.
    most = planned * (PATIENCE if len(cores) > 1 else PATIENCE_IN_PLACE)
    rounds, streak = Rounds([run_dense()], [], []), Streak()
    enough = planned if enough is None else enough
    quiet = held = calm = 0
    held_before = streak.saw(rounds.dense[0])
    quiet_before = rounds.dense[0].seconds <= limit_s
    pace_before = pace.now()
    while len(rounds.pruned) < most or (
        calm < ENOUGH <= held and len(rounds.pruned) < FOR_A_CORE * most
    ):
        new = _rounds_at_once(rounds)
        for _ in range(new):
            rounds.pruned.append(run_pruned())
            rounds.dense.append(run_dense())
        throttled, pace_after = monitor.throttled(), pace.now()
        slowness = max(pace_before, pace_after)
        rounds.throttled.extend([throttled] * new)
        rounds.slowness.extend([slowness] * new)
        if new > 1:
            rounds.slowness[-new] = math.inf  # the first one warmed up after the last notes
        for pruned, dense in zip(rounds.pruned[-new:], rounds.dense[-new:], strict=True):
            both = streak.saw(pruned), streak.saw(dense)  # in the order of the runs
            is_held = held_before and all(both) and not throttled
            dense_is_quiet = dense.seconds <= limit_s
            held += is_held
            calm += is_held and slowness <= SLOW_CORE
            quiet += is_held and quiet_before and dense_is_quiet and slowness <= SLOW_CORE
            held_before, quiet_before = all(both) and not throttled, dense_is_quiet
        quiet -= new > 1 and quiet > 0
        if quiet >= enough or (not held and len(rounds.pruned) >= HOPELESS * planned):
            break
        cores.saw(held_before and quiet_before and pace_after <= SLOW_CORE)
        pace_before = pace_after
    return rounds


def _rounds_at_once(so_far: Rounds) -> int:
    """How many rounds run before notes are taken of them.

    What is between two timed runs must not tell them apart. Where a run takes microseconds, taking
    notes slows down the next one: they are taken after several rounds then, and the first of the
    next ones does not count.
    """
    if not so_far.pruned:
        return 1
    round_s = so_far.pruned[-1].seconds + so_far.dense[-1].seconds
    return 1 if round_s >= 2 * SHORT_S else int(AT_ONCE_S / round_s)
