"""The journey: a network and a device in, a latency table with its own error out.

Every run is one row, on disk before the next begins. Whatever is missing is measured; what is
there is kept, so a killed profile continues with the same command.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from latprof.design import design, unseen
from latprof.measure import Bench
from latprof.validate import MOST_ATTEMPTS, as_run, quiet_level_s, validation
from lookup_tables.device import Device
from lookup_tables.errors import TableError
from lookup_tables.estimate import LatencyModel
from lookup_tables.network import Architecture, Network
from lookup_tables.table import DISTURBED, LatencyTable, Plan, Run, Validation

Report = Callable[[int, int, str], None]  # done, of how many, what now
TARGET_S = 0.25  # most seconds of one series of rounds
OUTLIER = 4.0  # a residual of so many robust standard deviations is measured again


@dataclass(frozen=True, slots=True)
class Job:
    """One network still to be run."""

    purpose: str
    run: int
    attempt: int
    architecture: Architecture


def profile(
    network: Network,
    device: Device,
    folder: str | Path,
    *,
    levels: int = 8,
    samples: int = 40,
    budget_s: float = 180.0,
    seed: int = 0,
    report: Report = lambda done, total, text: None,
) -> Validation:
    """Measure a network on a device into a table; returns the table's error.

    `budget_s` bounds the seconds of measuring, earlier sessions included: when it is spent before
    every run is in, TableError says so and the rows stay. Raises DeviceMismatch for a table of
    another device.
    """
    table = LatencyTable.create(folder, device)
    if table.drop_truncated_line(network.name):
        report(0, 1, "dropped the incomplete last line of an interrupted profile")
    plan = _keep_plan(table, network, levels, samples, seed)
    chosen = architectures(network, plan)
    _require_same_runs(table, network, chosen)
    total = sum(map(len, chosen.values()))
    _measure_all(table, network, chosen, budget_s, report)
    last = table.rows(network.name)[-1]
    if isinstance(last, Validation):  # nothing was measured since
        report(total, total, "already measured")
        return last
    result = validation(network, table, table.settled_runs(network, "unseen"))
    table.append(network.name, [result])
    report(total, total, "validated")
    return result


def _measure_all(table: LatencyTable, network: Network, chosen, budget_s: float, report) -> None:
    """Run every job and append its row, until all is measured or the budget is spent."""
    total = sum(map(len, chosen.values()))
    # Two series of rounds a run, up to three times as long in a slow phase; the rest of the budget
    # is for building networks and for second attempts.
    target_s = min(0.12 * budget_s / total, TARGET_S)
    bench = None
    for job in _jobs(table, network, chosen):
        spent_s = measured_s(table, network)
        if spent_s > budget_s:
            _give_up_unless_complete(table, network, chosen, budget_s)
            return
        done = total - len(list(_missing(table, network, chosen)))
        again = f", attempt {job.attempt + 1}" if job.attempt else ""
        report(done, total, f"{job.purpose} run {job.run}{again}, {spent_s:.0f} s measured")
        bench = bench or Bench(network, table.device, target_s)
        sample = bench.measure(job.architecture, instrumented=job.purpose == "design")
        row = as_run(job.purpose, job.run, job.attempt, job.architecture, sample)
        table.append(network.name, [row])


def architectures(network: Network, plan: Plan) -> dict[str, list[Architecture]]:
    """What a plan says to run, by purpose."""
    designed = design(network, plan.levels, plan.seed)
    return {
        "design": designed,
        "unseen": unseen(network, plan.unseen, plan.seed, exclude=designed),
    }


def measured_s(table: LatencyTable, network: Network) -> float:
    """Seconds of measuring that the rows so far cost."""
    return sum(run.measuring_s for run in table.runs(network))


def _keep_plan(table: LatencyTable, network: Network, levels: int, samples: int, seed: int) -> Plan:
    """The plan the table already follows, or a new one."""
    plan = table.plan(network.name)
    if plan is None:
        plan = Plan(
            network=network.name,
            fingerprint=network.fingerprint,
            levels=levels,
            unseen=samples,
            seed=seed,
        )
        table.append(network.name, [plan])
        return plan
    table.require_network(network)
    if (plan.levels, plan.unseen, plan.seed) != (levels, samples, seed):
        raise TableError(
            f"{table.path(network.name)} was begun with {plan.levels} levels, {plan.unseen} "
            f"samples and seed {plan.seed}; asked for are {levels}, {samples} and {seed}. "
            "Continue with the same options, or profile into another folder with --out"
        )
    return plan


def _require_same_runs(table: LatencyTable, network: Network, chosen) -> None:
    """A menu that changed meanwhile chooses other runs; rows of both must not mix."""
    for run in table.runs(network):
        if run.architecture != chosen[run.purpose][run.run]:
            raise TableError(
                f"{table.path(network.name)}: {run.purpose} run {run.run} was of another "
                "architecture: the network's menu has changed since. Profile into another folder "
                "with --out"
            )


def _jobs(table: LatencyTable, network: Network, chosen) -> Iterator[Job]:
    """First what is missing, then what was disturbed; asks the table anew after every job."""
    for purpose in ("design", "unseen"):
        yield from _missing(table, network, {purpose: chosen[purpose]})
    while (job := _most_doubtful(table, network, chosen)) is not None:
        yield job


def _missing(table: LatencyTable, network: Network, chosen) -> Iterator[Job]:
    have = {(run.purpose, run.run) for run in table.runs(network)}
    for purpose, listed in chosen.items():
        for number, architecture in enumerate(listed):
            if (purpose, number) not in have:
                yield Job(purpose, number, 0, architecture)


def _most_doubtful(table: LatencyTable, network: Network, chosen) -> Job | None:
    """The run to measure again: the most disturbed one, then a design run that stands out."""
    attempts: dict[tuple[str, int], list[Run]] = {}
    for run in table.runs(network):
        attempts.setdefault((run.purpose, run.run), []).append(run)
    quiet_s = quiet_level_s(attempts)
    doubt = {
        key: min(run.dense_s for run in runs) / (quiet_s * DISTURBED)
        for key, runs in attempts.items()
    }
    # Only the design runs are judged by their residual: choosing the unseen ones by how well
    # they are predicted would flatter the table.
    for key, residual in _residuals(table, network).items():
        if len(attempts[key]) == 1:
            doubt[key] = max(doubt[key], residual / OUTLIER)
    open_ = {k: d for k, d in doubt.items() if d > 1 and len(attempts[k]) < MOST_ATTEMPTS}
    if not open_:
        return None
    purpose, number = max(open_, key=open_.get)
    key = (purpose, number)
    return Job(purpose, number, len(attempts[key]), chosen[purpose][number])


def _residuals(table: LatencyTable, network: Network) -> dict[tuple[str, int], float]:
    """Design run → its residual in robust standard deviations."""
    runs = table.settled_runs(network, "design")
    model = LatencyModel(network, table)
    predicted = model.predict_architectures([run.architecture for run in runs])
    errors = predicted.latency_s / model.dense_s / [run.ratio for run in runs] - 1
    spread = 1.4826 * np.median(np.abs(errors - np.median(errors)))
    return {
        ("design", run.run): float(abs(error) / max(spread, 1e-3))
        for run, error in zip(runs, errors, strict=True)
    }


def _give_up_unless_complete(table, network, chosen, budget_s: float) -> None:
    left = list(_missing(table, network, chosen))
    if left:
        total = sum(map(len, chosen.values()))
        raise TableError(
            f"the budget of {budget_s:.0f} s of measuring is spent with {total - len(left)} of "
            f"{total} runs measured; they are kept in {table.path(network.name)}. "
            "Continue with a larger --budget"
        )
