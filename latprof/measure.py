"""Measuring one pruned network beside the dense one, in place and in pairs.

The dense network and the pruned one run by turns; a second series of rounds does the same with the
runtime's profiler on in the pruned one. Everything is stored relative to the dense runs before and
after: machines drift by 5 – 15 % within minutes, ratios hardly do. Which rounds count is decided in
lookup_tables/noise.py; where too few do, the measurement is refused. The two series are kept apart
because a third network between the two changes what they find in the caches and so their ratio
(benchmarks/interference.py).
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from importlib import import_module
from typing import TypeVar

import numpy as np

from latprof.cores import Cores
from latprof.detect import uuid_of
from latprof.errors import Disturbed, Throttled
from latprof.machine import Snapshot, disturbances
from latprof.onnx_model import build, random_input
from latprof.pace import Pace, in_words
from lookup_tables.device import Device
from lookup_tables.network import INPUT, Architecture, Network
from lookup_tables.noise import (
    ENOUGH,
    QUIET,
    SLOW_CORE,
    Rounds,
    Streak,
    Timing,
    is_null,
    quiet_level_s,
    ratio_of,
    rounds_that_count,
    undisturbed,
)
from lookup_tables.table import Conditions, LayerTime, Session

WARM_UP, FEWEST, MOST = 3, 12, 500  # rounds
BETTER, BETTER_S = 30, 0.4  # as many are worth this long: the ratio of few rounds scatters
HEAVY_S = 0.02  # rounds so long need one warm-up only
SLOW_S = 0.15  # networks that take so long need fewer rounds: each is an average in itself
FEWEST_SLOW = 5
LARGE_BYTES = 1 << 28  # networks so large are opened once: several would not fit
SESSIONS = 3  # of both networks, a part of the rounds each
# Of the rounds, where layers are timed too. The whole network's ratio then only helps to fit four
# numbers, from one session; most layers are in several runs of the design.
WHOLE, LAYERS = 0.4, 0.6
PATIENCE, PATIENCE_IN_PLACE = 3, 6  # times the wanted rounds, while too few were quiet
SHORT_S, AT_ONCE_S = 1e-3, 24e-3  # runs shorter than this go by several rounds at once
FOR_A_CORE = 10  # times as long, while hardly a round had its core to itself
HOPELESS = 1  # times the wanted rounds, if all of them had to wait for their processors
FEWEST_KEPT = 3  # rounds of a measurement; fewer are a refusal
WAIT_S = (1.0, 4.0, 15.0)  # before a disturbed measurement is tried again
WAIT_FOR_CORE_S = (30.0, 60.0)  # after that, if all that disturbs is a neighbour on the core
MOST_CORES = 8  # tried at the start
RENEWAL = 0.02  # of the time spent measuring goes into opening dense sessions anew

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Sample:
    """One pruned network's times; see lookup_tables.table.Run for the meaning of the fields."""

    dense_s: float
    whole_s: float
    ratio: float
    pairs: int
    layers: tuple[LayerTime, ...]
    layers_dense_s: float | None
    measuring_s: float
    unselected_ratio: float | None = None
    graph_ratio: float | None = None
    conditions: Conditions | None = None
    sessions: tuple[Session, ...] = ()

    def fields(self) -> dict:
        return {field.name: getattr(self, field.name) for field in fields(self)}


def runtime(device: Device):
    """The module that runs networks on such a device: latprof.cpu or latprof.cuda.

    Both have `Running`, `Instrumented` and `Monitor`; only the one that is needed is imported.
    """
    if device.kind == "cuda":
        os.environ["CUDA_VISIBLE_DEVICES"] = uuid_of(device)  # before anything starts CUDA
        return import_module("latprof.cuda")
    return import_module("latprof.cpu")


def run_rounds(
    run_dense: Callable[[], Timing],
    run_pruned: Callable[[], Timing],
    wanted: int,
    quiet_s: float,
    cores: Cores,
    monitor,
    pace: Pace,
) -> Rounds:
    """Rounds until so many were quiet, until patience ends, or until there is no hope.

    `quiet_s`: the dense network's time when nothing disturbs, 0 while unknown. What is slow or has
    to wait goes on from another core.
    """
    limit_s = quiet_s * QUIET or np.inf
    # Several cores are quiet at once more rarely, and there is no other place to go to.
    most = wanted * (PATIENCE if len(cores) > 1 else PATIENCE_IN_PLACE)
    rounds, streak = Rounds([run_dense()], [], []), Streak()
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
        if quiet >= wanted or (not held and len(rounds.pruned) >= HOPELESS * wanted):
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


class Bench:
    """The dense network, open and warm, and the quiet level seen so far."""

    def __init__(self, network: Network, device: Device, target_s: float) -> None:
        """`target_s`: how long one series of rounds may take when nothing disturbs."""
        self.network, self.device, self.target_s = network, device, target_s
        self._runtime = runtime(device)
        self._feed = {INPUT: random_input(network, device.batch, device.precision)}
        dense = self._open_dense()
        self._warm_s = min(dense.run_s() for _ in range(WARM_UP))
        # As many dense sessions: a single one's luck would be in every ratio of the table.
        large = len(self._build(network.dense)) > LARGE_BYTES
        slow = self._warm_s >= SLOW_S or large
        self._dense = [dense, *(self._open_dense() for _ in range(0 if slow else SESSIONS - 1))]
        self._since_renewal_s, self._turn = 0.0, 0
        self._monitor = self._runtime.Monitor(device)
        self._cores = Cores(device)
        self._pace = Pace(device)
        self._shared: list[float] = []  # how slow the core was in rounds that it shared
        self._dense_medians = [] if slow else self._first_levels_s()

    def check(self) -> float:
        """The null test: the dense network beside itself; returns the ratio, 1 but for noise.

        Raises Disturbed where it is off by more than anything that is measured here may be.
        """
        return self._until_undisturbed(self._null_ratio)

    def _null_ratio(self) -> float:
        ratio = self._measure(self.network.dense, instrumented=False).ratio
        if not is_null(ratio):
            raise Disturbed(
                f"the dense network beside itself takes {ratio:.3f} times as long, where only 1 "
                "would be right"
            )
        return ratio

    def measure(self, architecture: Architecture, instrumented: bool = True) -> Sample:
        """Run an architecture beside the dense network until enough quiet rounds are in.

        What was disturbed is tried again, later and later. Raises Disturbed, saying by what, where
        the machine stays busy.
        """
        return self._until_undisturbed(lambda: self._measure(architecture, instrumented))

    def _until_undisturbed(self, attempt: Callable[[], Answer]) -> Answer:
        for wait_s in (*WAIT_S, *WAIT_FOR_CORE_S, None):
            before, self._shared = Snapshot.take(), []
            try:
                with self._cores:
                    return attempt()
            except Disturbed as error:
                if wait_s is None or (wait_s in WAIT_FOR_CORE_S and not self._shared):
                    raise Disturbed(_busy(before, self._shared, error)) from error
                time.sleep(wait_s)
        raise AssertionError("the last attempt returns or raises")

    def _measure(self, architecture: Architecture, instrumented: bool) -> Sample:
        start_s = time.perf_counter()
        self._renew()
        model = self._build(architecture)
        series, (beside, share) = [], self._plan(instrumented)
        for dense in beside:
            pruned = self._runtime.Running(model, self._feed, self.device)
            series.append(self._rounds(dense, pruned.run, share))
            self._note(series[-1])
        kept = self._counted(series)
        counted = [*zip(series, kept, strict=True)]
        graph_ratio = self._graph_ratio(pruned)
        del pruned  # its memory is needed for the instrumented copy
        dense_s = float(np.median(np.concatenate([r.both_dense_s(k) for r, k in counted])))
        sessions = tuple(_session("whole", *each) for each in counted)
        layers, layers_dense_s = (), None
        if instrumented:
            layers, layers_dense_s, session = self._layer_times(architecture, model, dense, dense_s)
            sessions += (session,)
        measuring_s = time.perf_counter() - start_s
        self._since_renewal_s += measuring_s
        return Sample(
            dense_s=dense_s,
            whole_s=float(np.median(np.concatenate([r.pruned_s[k] for r, k in counted]))),
            ratio=ratio_of(series, kept),
            pairs=sum(int(k.sum()) for k in kept),
            layers=layers,
            layers_dense_s=layers_dense_s,
            measuring_s=measuring_s,
            unselected_ratio=ratio_of(series),
            graph_ratio=graph_ratio,
            conditions=self._monitor.conditions(),
            sessions=sessions,
        )

    def _renew(self) -> None:
        """Open the oldest dense session anew, as often as it costs little.

        Where a session's memory lies makes it up to 1 % faster or slower for as long as it lives;
        a process that keeps the same ones has their luck in every ratio.
        """
        warm_s = self._warm_up(2 * self._warm_s) * self._warm_s
        if self.opening_s + warm_s > RENEWAL * self._since_renewal_s:
            return
        self._since_renewal_s = 0.0
        self._dense.pop(0)  # the oldest; closed before the next one is opened: two may not fit
        self._dense.append(self._open_dense())

    def _open_dense(self):
        start_s = time.perf_counter()
        model = self._build(self.network.dense)
        dense = self._runtime.Running(model, self._feed, self.device)
        dense.run()  # a session's first run is slow, and says nothing about the others
        self.opening_s = time.perf_counter() - start_s
        return dense

    def _plan(self, instrumented: bool) -> tuple[list, float]:
        """The dense sessions to run beside, and the share of the rounds that each gets."""
        if not instrumented:
            return self._dense, 1 / len(self._dense)
        self._turn += 1  # each in its turn
        return [self._dense[self._turn % len(self._dense)]], WHOLE

    @property
    def shared_core(self) -> str:
        """What the last measurement found of a shared core, in words; empty for nothing."""
        return in_words(float(np.median(self._shared))) if self._shared else ""

    def remember(self) -> None:
        """Keep for later calls what the quiet machine took."""
        self._pace.remember()

    def expected_s(self, pruned_share: float, instrumented: bool) -> float:
        """Seconds that `measure` takes when nothing disturbs; for estimates."""
        round_s = self._warm_s * (1 + pruned_share)
        wanted, warm_up = self._wanted(round_s), self._warm_up(round_s)
        if instrumented:
            rounds = (WHOLE + LAYERS) * wanted + 2 * warm_up
            opened = 3  # the profiled copy, and what it takes to read its profile
        else:
            opened = len(self._dense)
            rounds = wanted + opened * warm_up
        return rounds * round_s + (1 + opened) / 2 * self.opening_s * pruned_share

    def _layer_times(
        self, architecture: Architecture, model: bytes, dense, dense_s: float
    ) -> tuple[tuple[LayerTime, ...], float, Session]:
        """The layers' seconds where the dense network takes `dense_s`, and what it took then."""
        profiled = self._runtime.Instrumented(
            self.network, architecture, model, self._feed, self.device
        )
        rounds = self._rounds(dense, profiled.run, LAYERS)
        (kept,) = rounds_that_count([rounds], self._quiet_s())
        _require_enough(int(kept.sum()), "its layers' rounds")
        beside_s = float(np.median(rounds.beside_s[kept]))
        times = profiled.layer_times(rounds.beside_s, kept)
        layers = tuple(
            entry.model_copy(update={"seconds": entry.seconds * dense_s / beside_s})
            for entry in times
        )
        return layers, beside_s, _session("layers", rounds, kept)

    def _graph_ratio(self, pruned) -> float | None:
        """Both networks replayed as CUDA graphs; None where the runtime has none of them."""
        dense = self._dense[0]
        count = FEWEST if dense.has_graph and pruned.has_graph else 0
        pairs = [(dense.graph_s(), pruned.graph_s()) for _ in range(count)]
        ratios = [pruned_s / dense_s for dense_s, pruned_s in pairs]
        return float(np.median(ratios)) if ratios else None

    def _first_levels_s(self) -> list[float]:
        """The dense network's time on the core where it is lowest just now; none if it waited."""
        medians = []
        with self._cores:
            for _ in range(min(len(self._cores), MOST_CORES)):
                times = [self._dense[0].run() for _ in range(WARM_UP + FEWEST)][WARM_UP:]
                held = undisturbed(times)
                if held.any():
                    medians.append(float(np.median(np.array([t.seconds for t in times])[held])))
                self._cores.move()
        return [min(medians)] if medians else []

    def _note(self, rounds: Rounds) -> None:
        """Remember what the dense network took while it had its processors."""
        levels = rounds.levels_s()
        if levels is not None:
            self._dense_medians.append(float(np.median(rounds.both_dense_s(rounds.calm()))))

    def _counted(self, series: list[Rounds]) -> list[np.ndarray]:
        """Which rounds count, over several sessions."""
        kept = rounds_that_count(series, self._quiet_s())
        _require_enough(sum(int(each.sum()) for each in kept), "its rounds")
        return kept

    def _quiet_s(self) -> float:
        return quiet_level_s(self._dense_medians)

    def _rounds(self, dense, run_pruned: Callable[[], Timing], share: float = 1.0) -> Rounds:
        """One series of rounds of a dense session and a pruned one; the warm-up is left out."""
        self._monitor.begin()
        run_pruned()  # a session's first run is slow, and says nothing about the others
        round_s = dense.run().seconds + run_pruned().seconds
        for _ in range(self._warm_up(round_s) - 1):
            dense.run(), run_pruned()
        wanted = math.ceil(share * self._wanted(round_s))
        rounds = run_rounds(
            dense.run, run_pruned, wanted, self._quiet_s(), self._cores, self._monitor, self._pace
        )
        self._shared += rounds.shared()
        if all(rounds.throttled):
            raise Throttled(self._monitor.complaint())
        return rounds

    def _wanted(self, round_s: float) -> int:
        if round_s >= SLOW_S:
            return FEWEST_SLOW
        fewest = np.clip(BETTER_S / round_s, FEWEST, BETTER)
        return int(np.clip(self.target_s / round_s, fewest, MOST))

    def _warm_up(self, round_s: float) -> int:
        return WARM_UP if round_s < HEAVY_S else 1

    def _build(self, architecture: Architecture) -> bytes:
        model = build(self.network, architecture, self.device.batch, self.device.precision)
        return model.SerializeToString()


def _session(timed: str, rounds: Rounds, kept: np.ndarray) -> Session:
    """What one pair of sessions said, in a few numbers."""
    counted = kept if kept.any() else np.ones_like(kept)
    ratios = np.concatenate(rounds.ratios(counted))
    low, high = np.percentile(ratios, (25, 75))
    return Session(
        timed=timed,
        rounds=int(kept.sum()),
        of=len(kept),
        dense_s=float(np.median(rounds.both_dense_s(counted))),
        ratio=float(np.median(ratios)),
        spread=float(high - low),
        unselected_ratio=rounds.ratio(),
    )


def _require_enough(count: int, what: str) -> None:
    if count < FEWEST_KEPT:
        raise Disturbed(f"{count} of {what} were undisturbed")


def _busy(before: Snapshot, shared: list[float], error: Disturbed) -> str:
    """Why measuring was given up, and what to do."""
    return (
        f"this machine is too busy to measure on: {what_disturbs(before, shared)}; {error}. "
        "Nothing that was measured is lost; end that work, or wait for it, then run the same "
        "command again"
    )


def what_disturbs(before: Snapshot, shared: Sequence[float] = ()) -> str:
    """What took processors away since `before`, in one line.

    `shared`: how many times slower the core was where something else shared it.
    """
    found = disturbances(before, Snapshot.take())
    if len(shared):
        found.append(in_words(float(np.median(shared))))
    return "; ".join(found[:4]) or (
        "its runs were kept from their processors, by what the system does not tell (was this "
        "process stopped?)"
    )
