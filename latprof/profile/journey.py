"""The journey: a network and a device in, a latency table with its own error out.

Every run is one row, on disk before the next begins. Whatever is missing is measured; what is
there is kept, so a killed profile continues with the same command.

Runs come in legs. A leg measures some designed networks layer by layer and a few unseen ones as a
whole, then repeats what was disturbed; after it the error on the unseen ones is known, and the
profile stops if that is what was asked for. The designed networks are an orthogonal array on the
menu and, between the menu's widths, those that the table is least sure of.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from latprof.machine.load import Snapshot, disturbances
from latprof.profile.bench import Bench
from latprof.profile.design import (
    any_width,
    design,
    thin,
    unseen,
    whole_range,
    with_densities,
)
from latprof.profile.judge import MOST_ATTEMPTS, as_run, attempts_of, is_disturbed, validation
from latprof.profile.plan import (
    LEGS,
    keep_network,
    keep_plan,
    off_menu_of_a_leg,
    require_same_runs,
    share,
    spent_s,
)
from lookup_tables.architecture import Architecture
from lookup_tables.device import Device
from lookup_tables.errors import NetworkError, TableError
from lookup_tables.model.latency_model import FEWEST_RUNS, LatencyModel
from lookup_tables.network import Network
from lookup_tables.storage.files import only_writer
from lookup_tables.table.rows import Validation
from lookup_tables.table.store import LatencyTable

Report = Callable[[int, int, str], None]  # done, of how many, what now
TARGET_S = 0.15  # most seconds of one series of rounds
OUTLIER = 4.0  # a residual of so many robust standard deviations is measured again
REPEATED = 0.08  # of all runs so far, after each leg: the most disturbed ones
# By turns: half of them from a quarter to the full width, where most searches end.
OFF_MENU = (thin, any_width, whole_range, any_width)
FEW_OFF_MENU = 0.6  # of few designed networks: there is no array to complete
CANDIDATES = 50  # networks between the menu's widths, of which the table is least sure of one
SAMPLES = 30  # unseen networks of each kind, unless told otherwise
FEWEST_JUDGED = 14  # unseen networks of each kind before an error counts as reached
_UNSEEN_MOST = 400  # beyond any budget


@dataclass(frozen=True, slots=True)
class Goal:
    """When to stop: at an error (relative, on unseen networks), when the seconds are spent, or,
    with neither, after the whole design and `samples` unseen networks of each kind."""

    error: float | None = None
    budget_s: float = np.inf
    samples: int = SAMPLES


@dataclass(frozen=True, slots=True)
class Job:
    """One network still to be run."""

    purpose: str
    run: int
    attempt: int
    architecture: Architecture


@dataclass(frozen=True, slots=True)
class ProfileResult:
    """The table's error on its menu and at any width, and what ended the profile."""

    menu: Validation
    any: Validation

    @property
    def stopped(self) -> str | None:
        return self.menu.stopped

    def judged_again(self, before: ProfileResult) -> ProfileResult:
        """The same runs by another model: when they were measured and what it took stays."""
        pairs = ((self.menu, before.menu), (self.any, before.any))
        kept = ("measured_at", "measuring_s", "peak_memory_bytes")
        return ProfileResult(
            *(new.model_copy(update={k: getattr(old, k) for k in kept}) for new, old in pairs)
        )

    def reached(self, error: float) -> bool:
        """Whether both errors are at most this, each judged by enough networks."""
        return all(
            v.architectures >= FEWEST_JUDGED and v.rmspe <= error for v in (self.menu, self.any)
        )


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What a profile would measure: networks that are there, and that are still to come.

    `done` says that nothing is; else those that were disturbed, or that an error needs, come on
    top of what is `missing`.
    """

    there: tuple[int, int]  # designed, unseen
    missing: tuple[int, int]
    seconds: float
    done: bool = False


def profile(
    network: Network,
    device: Device,
    folder: str | Path,
    *,
    levels: int = 8,
    goal: Goal = Goal(),
    seed: int = 0,
    few: int | None = None,
    report: Report = lambda done, total, text: None,
    warn: Callable[[str], None] = lambda text: None,
) -> ProfileResult:
    """Measure a network on a device into a table; returns the table's error.

    `few`: only so many designed networks, for a table that begins with another device's. `warn` is
    told at the start what else the machine does. Raises DeviceMismatch for a table of another
    device, Disturbed where the machine is too busy, and TableError if another process is writing
    into the folder or if the budget was spent before there was enough to predict from; the rows
    stay.
    """
    require_choices(network)
    LatencyTable.create(folder, device)
    with only_writer(folder):
        return profile_locked(
            network, device, folder, levels=levels, goal=goal, seed=seed, few=few, report=report,
            warn=warn,
        )  # fmt: skip


def profile_locked(
    network: Network, device: Device, folder: str | Path, *, levels: int, goal: Goal, seed: int,
    few: int | None, report: Report, warn: Callable[[str], None],
) -> ProfileResult:  # fmt: skip
    """`profile` for who holds the folder's lock already."""
    require_choices(network)
    journey = Journey(network, device, folder, levels, goal, seed, few, report, warn)
    return journey.finish(journey.measure())


def require_choices(network: Network) -> None:
    """Raise NetworkError for a network in which nothing may change."""
    if not (network.groups or network.shortcuts):
        raise NetworkError(
            f"{network.name}: no layer's width may change, so there is nothing to profile; "
            "measure it with latprof compare"
        )


class Journey:
    """One call of `profile`: the table as it grows, the bench, the clock."""

    def __init__(
        self,
        network,
        device,
        folder,
        levels,
        goal: Goal,
        seed,
        few: int | None,
        report: Report,
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.network, self.goal, self.report, self.warn = network, goal, report, warn
        self.table = LatencyTable.create(folder, device)
        if self.table.drop_truncated_line(network.name):
            report(0, 1, "dropped the incomplete last line of an interrupted profile")
        plan = keep_plan(self.table, network, levels, seed)
        self.sparse = network.sparse_layers if device.block else ()
        self.designed = design(network, plan.levels, plan.seed, self.sparse)
        self.unseen = unseen(
            network, self._most_unseen(), plan.seed, self.designed, plan.menu, self.sparse
        )
        self.seed = plan.seed
        self._first_off_menu = len(self.designed)
        self._off_menu = off_menu_of_a_leg(plan.levels)
        if few is not None:
            self._off_menu = min(self._off_menu, max(1, round(FEW_OFF_MENU * few / LEGS)))
            self.designed = self.designed[: max(few - LEGS * self._off_menu, FEWEST_RUNS)]
        require_same_runs(self.table, network, self.designed, self.unseen)
        keep_network(self.table, network)
        self._spent_before_s = spent_s(self.table, network)
        self._start_s = time.perf_counter()
        self._bench: Bench | None = None
        self._null_ratio: float | None = None
        self._measured_now = 0

    def _most_unseen(self) -> int:
        return _UNSEEN_MOST if self.goal.error else 2 * self.goal.samples

    # -- legs ----------------------------------------------------------------------------------

    def measure(self) -> str:
        """Run legs until the goal is met; returns what ended it."""
        ended = self._ended()
        if ended is not None and self._is_enough(ended):
            return "complete" if ended.stopped == "complete" else "error"
        leg = 0
        while True:
            for job in self._leg(leg):
                if self._spent_s() > self.goal.budget_s:
                    return "budget"
                self._run(job, leg)
            leg += 1
            if self.goal.error is not None and self._reached():
                return "error"
            if leg >= LEGS and not self._unseen_of(leg):
                return "complete"

    def _ended(self) -> Validation | None:
        """What an earlier call wrote, if it came to its end."""
        last = self.table.rows(self.network.name)[-1]
        return last if isinstance(last, Validation) else None

    def _is_enough(self, ended: Validation) -> bool:
        """Whether it reached the error now asked for, or measured as many networks."""
        if self.goal.error is not None:
            return self._reached()
        designed = len(self.designed) + LEGS * self._off_menu
        return (
            ended.stopped == "complete"
            and len(self.table.settled_runs(self.network, "design")) >= designed
            and len(self.table.settled_runs(self.network, "unseen")) >= len(self.unseen)
        )

    def foreseen(self) -> Foreseen:
        """What `measure` has to do yet."""
        designed, judged = (
            len({run.run for run in self.table.runs(self.network, purpose)})
            for purpose in ("design", "unseen")
        )
        there = (designed, judged)
        ended = self._ended()
        if ended is not None and self._is_enough(ended):
            return Foreseen(there, (0, 0), 0.0, done=True)
        wanted = len(self.designed) + LEGS * self._off_menu
        missing = (max(0, wanted - designed), max(0, 2 * self.goal.samples - judged))
        bench = Bench(self.network, self.table.device, TARGET_S)
        pruned_share = 0.6  # of the dense network's time: a random pruned one
        seconds = bench.opening_s + sum(
            count * bench.expected_s(pruned_share, instrumented)
            for count, instrumented in zip(missing, (True, False), strict=True)
        )
        left_s = max(0.0, self.goal.budget_s - self._spent_before_s)
        return Foreseen(there, missing, min(seconds, left_s))

    def _leg(self, leg: int) -> Iterator[Job]:
        """What is missing of this leg, then what was disturbed so far."""
        yield from self._missing("design", self.designed, share(self.designed, leg))
        if self.table.settled_runs(self.network, "design"):
            yield from self._least_sure(leg)
        yield from self._missing("unseen", self.unseen, self._unseen_of(leg))
        yield from self._doubtful()
        if leg >= LEGS - 1:
            yield from self._doubtful()

    def _unseen_of(self, leg: int) -> range:
        each = -(-2 * self.goal.samples // LEGS)
        return range(min(each * leg, len(self.unseen)), min(each * (leg + 1), len(self.unseen)))

    def _missing(self, purpose: str, listed: list[Architecture], numbers: range) -> Iterator[Job]:
        have = {run.run for run in self.table.runs(self.network, purpose)}
        for number in numbers:
            if number not in have:
                yield Job(purpose, number, 0, listed[number])

    def _least_sure(self, leg: int) -> Iterator[Job]:
        """Networks between the menu's widths, each the least sure of some random ones."""
        first = self._first_off_menu + leg * self._off_menu
        have = {run.run for run in self.table.runs(self.network, "design")}
        missing = [n for n in range(first, first + self._off_menu) if n not in have]
        if not missing:
            return
        model = self._model()
        for number in missing:
            rng = np.random.default_rng([self.seed, 3, number])
            draw = OFF_MENU[number % len(OFF_MENU)]
            drawn = [draw(self.network, rng) for _ in range(CANDIDATES)]
            if self.sparse:
                drawn = [with_densities(self.network, one, rng, on_menu=False) for one in drawn]
            drawn = [one for one in drawn if one not in self.unseen] or drawn
            unsure = int(np.argmax(model.spreads(drawn))) if model else 0
            yield Job("design", number, 0, drawn[unsure])

    def _model(self) -> LatencyModel | None:
        if len(self.table.settled_runs(self.network, "design")) < FEWEST_RUNS:
            return None
        return LatencyModel(self.network, self.table)

    def _doubtful(self) -> list[Job]:
        """Runs whose every attempt was disturbed, and design runs that stand out.

        Only design runs are judged by how well they are predicted: choosing the unseen ones so
        would flatter the table.
        """
        attempts = attempts_of(self.table.runs(self.network))
        outliers = self._outliers()
        again = [
            runs
            for key, runs in attempts.items()
            if (is_disturbed(runs, attempts) or (key in outliers and len(runs) == 1))
            and len(runs) < MOST_ATTEMPTS
        ]
        # Where the dense network's time scatters widely without phases, many seem disturbed.
        again.sort(key=lambda runs: -min(run.loudest_s for run in runs))
        most = max(2, round(REPEATED * len(attempts)))
        return [
            Job(runs[0].purpose, runs[0].run, len(runs), runs[0].architecture)
            for runs in again[:most]
        ]

    def _outliers(self) -> set[tuple[str, int]]:
        runs = self.table.settled_runs(self.network, "design")
        model = self._model()
        if model is None:
            return set()
        errors = model.errors(runs)
        spread = 1.4826 * np.median(np.abs(errors - np.median(errors)))
        limit = OUTLIER * max(spread, 1e-3)
        return {("design", r.run) for r, e in zip(runs, errors, strict=True) if abs(e) > limit}

    # -- one run -------------------------------------------------------------------------------

    def _run(self, job: Job, leg: int) -> None:
        if self._bench is None:
            self._bench = self._checked_bench()
        runs = self.table.runs(self.network)
        again = f", attempt {job.attempt + 1}" if job.attempt else ""
        text = f"leg {leg + 1}: {job.purpose} {job.run}{again}, {self._spent_s():.0f} s"
        done, total = len({(run.purpose, run.run) for run in runs}), self._total(leg)
        self.report(min(done, total), total, text)
        sample = self._bench.measure(job.architecture, instrumented=job.purpose == "design")
        row = as_run(job.purpose, job.run, job.attempt, job.architecture, sample)
        self.table.append(self.network.name, [row])
        self._measured_now += 1

    def _checked_bench(self) -> Bench:
        """The dense network, open, held against itself; says what else the machine does."""
        before = Snapshot.take()
        bench = Bench(self.network, self.table.device, TARGET_S)
        self._null_ratio = bench.check()
        busy = disturbances(before, Snapshot.take())
        if bench.shared_core:
            busy.append(bench.shared_core)
        if busy:
            self.warn(
                f"this machine is busy: {'; '.join(busy)}. Only undisturbed runs count, so "
                "profiling may take longer or fail; see latprof doctor"
            )
        return bench

    def _total(self, leg: int) -> int:
        unseen_runs = self._unseen_of(max(leg, LEGS - 1)).stop
        return len(self.designed) + self._off_menu * max(leg + 1, LEGS) + unseen_runs

    def _spent_s(self) -> float:
        return self._spent_before_s + time.perf_counter() - self._start_s

    # -- the end -------------------------------------------------------------------------------

    def _reached(self) -> bool:
        error = self.goal.error
        if error is None or self._model() is None:
            return False
        return self._validations("error").reached(error)

    def _validations(self, stopped: str) -> ProfileResult:
        runs = self.table.settled_runs(self.network, "unseen")
        model = LatencyModel(self.network, self.table)
        return ProfileResult(
            *(
                validation(
                    model, self.table, runs, widths, self._spent_s(), stopped, self._null_ratio
                )
                for widths in ("menu", "any")
            )
        )

    def _how_to_go_on(self) -> str:
        if self._spent_s() > self.goal.budget_s:
            return f"The budget of {self.goal.budget_s:.0f} s is spent: give a larger --budget"
        return "The network has too few architectures; measure them with latprof compare"

    def finish(self, stopped: str) -> ProfileResult:
        if self._bench is not None:
            self._bench.remember()
        table, name = self.table, self.network.name
        on_menu, at_any = table.validation(name, "menu"), table.validation(name, "any")
        judged = len(table.settled_runs(self.network, "unseen"))
        designed = len(table.settled_runs(self.network, "design"))
        if designed < FEWEST_RUNS or judged < 4:  # two of each kind
            raise TableError(
                f"{table.path(name)}: only {designed} design networks and {judged} held-out "
                "networks were measured, too few to predict from. These measurements are kept. "
                + self._how_to_go_on()
            )
        outcome = self._validations(stopped)
        if not self._measured_now and on_menu is not None and at_any is not None:
            written = ProfileResult(on_menu, at_any)
            outcome = outcome.judged_again(written)
            if _alike(outcome, written):
                table.seal(name, [table.network_path(name).name])
                self.report(1, 1, "already measured")
                return written
        table.append(name, [outcome.menu, outcome.any])
        table.seal(name, [table.network_path(name).name])
        self.report(1, 1, f"stopped: {stopped}")
        return outcome


def _alike(one: ProfileResult, other: ProfileResult) -> bool:
    """Whether the model still says of a finished table what it said before."""
    pairs = ((one.menu, other.menu), (one.any, other.any))
    return all(abs(a.rmspe - b.rmspe) < 1e-9 and a.stopped == b.stopped for a, b in pairs)
