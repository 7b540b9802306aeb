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
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np

from latprof import Disturbed, Throttled
from latprof.machine.cores import Cores
from latprof.machine.load import Snapshot, what_disturbs
from latprof.machine.pace import Pace, in_words
from latprof.onnx.writer import BLOCK, build, random_input
from latprof.profile.rounds import run_rounds
from latprof.runtimes import runtime_of
from lookup_tables.architecture import Architecture
from lookup_tables.device import Device
from lookup_tables.network import INPUT, Network
from lookup_tables.noise import (
    Rounds,
    Timing,
    is_null,
    quiet_level_s,
    ratio_of,
    rounds_that_count,
    undisturbed,
)
from lookup_tables.table.rows import Conditions, LayerTime, Session

WARM_UP, FEWEST, MOST = 3, 12, 500  # rounds
BETTER, BETTER_S = 30, 0.4  # as many are worth this long: the ratio of few rounds scatters
HEAVY_S = 0.02  # rounds so long need one warm-up only
# Of the planned rounds, as many quiet ones end a series: on an idle machine about so many are quiet
# for both networks, and their median is not what limits a table (benchmarks/rule_cost.py).
COUNTED = 0.6
SLOW_S = 0.15  # networks that take so long need fewer rounds: each is an average in itself
FEWEST_SLOW = 5
LARGE_BYTES = 1 << 28  # networks so large are opened once: several would not fit
SESSIONS = 3  # of both networks, a part of the rounds each
# Of the rounds, where layers are timed too. The whole network's ratio then only helps to fit four
# numbers, from one session; most layers are in several runs of the design.
WHOLE, LAYERS = 0.4, 0.6
FEWEST_KEPT = 3  # rounds of a measurement; fewer are a refusal
WAIT_S = (1.0, 4.0, 15.0)  # before a disturbed measurement is tried again
WAIT_FOR_CORE_S = (30.0, 60.0)  # after that, if all that disturbs is a neighbour on the core
MOST_CORES = 8  # tried at the start
RENEWAL = 0.02  # of the time spent measuring goes into opening dense sessions anew

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Sample:
    """One pruned network's times; see `Run` in lookup_tables/table/rows.py for the fields."""

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


class Bench:
    """The dense network, open and warm, and the quiet level seen so far."""

    def __init__(self, network: Network, device: Device, target_s: float) -> None:
        """`target_s`: how long one series of rounds may take when nothing disturbs."""
        self.network, self.device, self.target_s = network, device, target_s
        self._runtime = runtime_of(device)
        self._feed = {INPUT: random_input(network, device.batch, device.precision)}
        dense = self._open_dense()
        self._warm_s = min(dense.run_s() for _ in range(WARM_UP))
        # As many dense sessions: a single one's luck would be in every ratio of the table.
        large = len(self._build(network.dense)) > LARGE_BYTES
        slow = self._warm_s >= SLOW_S or large
        self._dense = [dense, *(self._open_dense() for _ in range(0 if slow else SESSIONS - 1))]
        self._since_renewal_s, self._turn = 0.0, 0
        self._monitor = self._runtime.monitor(device)
        self._cores = Cores(device, self._runtime.on_processor)
        self._pace = Pace(device, self._runtime.on_processor)
        self._shared: list[float] = []  # how slow the core was in rounds that it shared
        self._dense_medians = [] if slow else self._first_levels_s()

    def check(self) -> float:
        """The null test: the dense network beside itself; returns the ratio, 1 but for noise.

        Raises Disturbed where it is off by more than anything that is measured here may be.
        """
        return self._until_undisturbed(self._null_ratio)

    def _null_ratio(self) -> float:
        dense = self._build(self.network.dense)
        ratio = self._measure(self.network.dense, dense, instrumented=False).ratio
        if not is_null(ratio):
            raise Disturbed(
                f"the dense network, timed against itself, takes {ratio:.3f} times as long; the "
                "right answer is 1"
            )
        return ratio

    def measure(self, architecture: Architecture, instrumented: bool = True) -> Sample:
        """Run an architecture beside the dense network until enough quiet rounds are in.

        What was disturbed is tried again, later and later. Raises Disturbed, saying by what, where
        the machine stays busy.
        """
        model = self._runtime.deployed(self._build(architecture), self.device)
        return self._until_undisturbed(lambda: self._measure(architecture, model, instrumented))

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

    def _measure(self, architecture: Architecture, model: bytes, instrumented: bool) -> Sample:
        start_s = time.perf_counter()
        self._renew()
        series, (beside, share) = [], self._plan(instrumented)
        for dense in beside:
            pruned = self._runtime.open(model, self._feed, self.device)
            series.append(self._rounds(dense, pruned.run, share))
            self._note(series[-1])
        kept = self._counted(series)
        counted = [*zip(series, kept, strict=True)]
        graph_ratio = self._graph_ratio(pruned)
        del pruned  # its memory is needed for the instrumented copy
        dense_s = float(np.median(np.concatenate([r.both_dense_s(k) for r, k in counted])))
        sessions = tuple(_session("whole", *each) for each in counted)
        layers: tuple[LayerTime, ...] = ()
        layers_dense_s: float | None = None
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
        dense = self._runtime.open(model, self._feed, self.device)
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
        planned, warm_up = self._planned(round_s), self._warm_up(round_s)
        if instrumented:
            rounds = (WHOLE + LAYERS) * planned + 2 * warm_up
            opened = 3  # the profiled copy, and what it takes to read its profile
        else:
            opened = len(self._dense)
            rounds = planned + opened * warm_up
        return rounds * round_s + (1 + opened) / 2 * self.opening_s * pruned_share

    def _layer_times(
        self, architecture: Architecture, model: bytes, dense, dense_s: float
    ) -> tuple[tuple[LayerTime, ...], float, Session]:
        """The layers' seconds where the dense network takes `dense_s`, and what it took then."""
        profiled = self._runtime.open_layers(
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
        planned = max(math.ceil(share * self._planned(round_s)), FEWEST_KEPT)
        rounds = run_rounds(
            dense.run, run_pruned, planned, self._quiet_s(), self._cores, self._monitor,
            self._pace, enough=max(min(planned, FEWEST), math.ceil(COUNTED * planned)),
        )  # fmt: skip
        self._shared += rounds.shared()
        if all(rounds.throttled):
            raise Throttled(self._monitor.complaint())
        return rounds

    def _planned(self, round_s: float) -> int:
        if round_s >= SLOW_S:
            return FEWEST_SLOW
        fewest = np.clip(BETTER_S / round_s, FEWEST, BETTER)
        return int(np.clip(self.target_s / round_s, fewest, MOST))

    def _warm_up(self, round_s: float) -> int:
        return WARM_UP if round_s < HEAVY_S else 1

    def _build(self, architecture: Architecture) -> bytes:
        block = self.device.block or BLOCK
        device = self.device
        model = build(self.network, architecture, device.batch, device.precision, block=block)
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
        "Measurements so far are kept. End the other work or wait for it, then run the same "
        "command again"
    )
