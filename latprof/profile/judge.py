"""A table's own error: predicted against measured on architectures it never saw."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version

import numpy as np
from scipy.stats import spearmanr

from latprof.profile.bench import Bench, Sample
from latprof.profile.design import unseen
from lookup_tables.architecture import Architecture
from lookup_tables.errors import TableError
from lookup_tables.model.latency_model import LatencyModel, holds_90
from lookup_tables.network import Network
from lookup_tables.noise import is_scarce, is_slow, quiet_level_s
from lookup_tables.storage.provenance import written_by
from lookup_tables.table.rows import Run, Validation, Widths
from lookup_tables.table.settled import settle, undisturbed
from lookup_tables.table.store import LatencyTable

MOST_ATTEMPTS = 3  # at one architecture in a profile; one more in a validation
TARGET_S = 0.25  # most seconds of one series of rounds
PASSES = 2  # over all architectures: the machine's states in between move a ratio
_FEWEST_FOR_A_LINE = 10
_FEWEST_IN_HALF = 5


def validation(
    model: LatencyModel,
    table: LatencyTable,
    unseen_runs: list[Run],
    widths: Widths,
    measuring_s: float,
    stopped: str | None = None,
    null_ratio: float | None = None,
    is_fresh: bool = False,
) -> Validation:
    """Compare the table's predictions, and the FLOPs line's, with measured unseen runs.

    Of the runs those of such widths count, all of them if there are none; those that were
    disturbed to the end are dropped and counted. The FLOPs line is fitted to design runs of the
    same kind of widths, where there are enough. `is_fresh`: the table's interval was not made from
    these runs, so it can be asked whether it holds them. Raises TableError where there are no
    unseen runs.
    """
    network = model.network
    if not unseen_runs:
        raise TableError(
            f"{network.name}: no held-out networks remain, because the network has too few "
            "architectures"
        )
    quiet = undisturbed(unseen_runs)
    measured_runs = _of_kind(model, quiet, widths) or quiet
    all_runs = _of_kind(model, unseen_runs, widths) or unseen_runs
    kept = {run.key for run in measured_runs}
    dropped = [run for run in all_runs if run.key not in kept]
    everything = [*table.runs(network), *unseen_runs]
    measured = np.array([run.ratio for run in measured_runs])
    predicted = model.predict_architectures([run.architecture for run in measured_runs])
    ratios = predicted.latency_s / model.dense_s
    flops = flops_line(network, _for_a_line(model, table, widths), measured_runs)
    errors = ratios / measured - 1
    truth_s = measured * model.dense_s
    held = float(np.mean((predicted.low_s <= truth_s) & (truth_s <= predicted.high_s)))
    return Validation(
        widths=widths,
        architectures=len(measured_runs),
        dropped=len(dropped),
        dropped_rmspe=_rms(model.errors(dropped)) if dropped else None,
        unselected_rmspe=_unselected_rmspe(model, all_runs),
        null_ratio=null_ratio,
        rmspe=_rms(errors),
        bias=float(np.mean(errors)),
        within_5_percent=float(np.mean(np.abs(errors) <= 0.05)),
        rank_correlation=rank_correlation(ratios, measured),
        worst=float(np.abs(errors).max()),
        flops_rmspe=_rms(flops / measured - 1),
        flops_rank_correlation=rank_correlation(flops, measured),
        interval_90=model.interval_90 if widths == "menu" else model.interval_90_any,
        coverage_90=held if is_fresh else coverage_of_90(errors),
        stopped=stopped,
        measuring_s=measuring_s,
        peak_memory_bytes=max(peak_memory_bytes(), *(r.peak_memory_bytes or 0 for r in everything)),
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        tool_version=version("latprof-pruner"),
    )


def _unselected_rmspe(model: LatencyModel, runs: list[Run]) -> float | None:
    """The error by what all rounds said; None where the table does not know it of every run."""
    if any(run.unselected_ratio is None for run in runs):
        return None
    said = np.array([run.unselected_ratio for run in runs])
    predicted = model.predict_architectures([run.architecture for run in runs])
    return _rms(predicted.latency_s / model.dense_s / said - 1)


def _for_a_line(model: LatencyModel, table: LatencyTable, widths: Widths) -> list[Run]:
    """The design runs of such widths, all of them where these are too few."""
    design = table.settled_runs(model.network, "design")
    alike = _of_kind(model, design, widths)
    return alike if len(alike) >= _FEWEST_FOR_A_LINE else design


def _of_kind(model: LatencyModel, runs: list[Run], widths: Widths) -> list[Run]:
    return [run for run in runs if model.off_menu(run.architecture) == (widths == "any")]


def flops_line(network: Network, design: list[Run], unseen: list[Run]) -> np.ndarray:
    """The straight line in MACs, fitted to the design runs' relative errors: (len(unseen),)."""
    features = np.stack([_macs(network, design), np.ones(len(design))], axis=1)
    ratios = np.array([run.ratio for run in design])
    line, *_ = np.linalg.lstsq(features / ratios[:, None], np.ones(len(design)), rcond=None)
    return np.stack([_macs(network, unseen), np.ones(len(unseen))], axis=1) @ line


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation; 0 where there is no order: one value, or all alike."""
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(spearmanr(a, b).statistic)


def coverage_of_90(errors: np.ndarray) -> float | None:
    """Share of networks that an interval holds which the other half of them made; None of too few.

    The table's own interval holds 90 % of these very networks by construction, so asking it says
    nothing: each half is judged by the interval that the other one would give.
    """
    halves = [np.abs(errors[start::2]) for start in (0, 1)]
    if min(map(len, halves)) < _FEWEST_IN_HALF:
        return None
    held = [own <= holds_90(other) for own, other in (halves, halves[::-1])]
    return float(np.mean(np.concatenate(held)))


def _macs(network: Network, runs: list[Run]) -> np.ndarray:
    dense = network.macs(network.widths(network.dense))
    return np.array(
        [
            network.macs(
                network.widths(run.architecture),
                dict.fromkeys(run.architecture.removed, True),
                run.architecture.density,
            )
            / dense
            for run in runs
        ],
        dtype=float,
    )


def _rms(errors: np.ndarray) -> float:
    return float(np.sqrt(np.mean(errors**2)))


def validate(
    network: Network,
    table: LatencyTable,
    samples: int,
    seed: int,
    report: Callable[[int, int, str], None] = lambda done, total, text: None,
) -> list[Validation]:
    """Measure architectures that the table holds neither as design nor as unseen runs.

    Half of the `samples` are on the menu, half of any widths: one Validation each. The dense
    network is held against itself before and after. Raises Disturbed where that is not 1, or
    where the machine stays busy.
    """
    model = LatencyModel(network, table)  # first: a table with too little is refused unmeasured
    bench = Bench(network, table.device, TARGET_S)
    null_ratios = [bench.check()]
    runs = measured_beside(bench, unknown(network, table, samples, seed), report)
    null_ratios.append(bench.check())
    bench.remember()
    worst = max(null_ratios, key=lambda ratio: abs(np.log(ratio)))
    spent_s = sum(run.measuring_s for run in runs)
    return [
        validation(model, table, runs, widths, spent_s, null_ratio=worst, is_fresh=True)
        for widths in ("menu", "any")
    ]


def fresh_runs(
    network: Network,
    table: LatencyTable,
    samples: int,
    seed: int,
    report: Callable[[int, int, str], None] = lambda done, total, text: None,
) -> list[Run]:
    """Architectures unknown to the table, measured beside the dense network."""
    return measured_beside_dense(network, table, unknown(network, table, samples, seed), report)


def unknown(network: Network, table: LatencyTable, samples: int, seed: int) -> list[Architecture]:
    """Architectures that the table holds neither as design nor as unseen runs."""
    known = [run.architecture for run in table.runs(network)]
    menu = table.require_network(network).menu
    sparse = network.sparse_layers if table.device.block else ()
    return unseen(network, samples, seed, known, menu, sparse)


def measured_beside_dense(
    network: Network,
    table: LatencyTable,
    chosen: Sequence[Architecture],
    report: Callable[[int, int, str], None] = lambda done, total, text: None,
) -> list[Run]:
    """Each architecture beside the dense network, on the table's device; nothing is kept there."""
    return measured_beside(Bench(network, table.device, TARGET_S), chosen, report)


def measured_beside(
    bench: Bench,
    chosen: Sequence[Architecture],
    report: Callable[[int, int, str], None] = lambda done, total, text: None,
) -> list[Run]:
    """Each architecture beside the bench's dense network: one settled run each, in their order."""
    attempts: dict[int, list[Run]] = {number: [] for number in range(len(chosen))}
    for attempt in range(PASSES + MOST_ATTEMPTS - 1):
        for number, runs in attempts.items():
            if attempt >= PASSES and not is_disturbed(runs, attempts):
                continue
            report(number, len(chosen), f"attempt {attempt + 1}")
            sample = bench.measure(chosen[number], instrumented=False)
            attempts[number].append(as_run("unseen", number, attempt, chosen[number], sample))
    return [settle(runs) for runs in attempts.values()]


def is_disturbed(
    runs: list[Run], attempts: Mapping[int, list[Run]] | Mapping[tuple[str, int], list[Run]]
) -> bool:
    """Whether every attempt at one architecture fell into a slow phase, or had few quiet rounds.

    Judged by the dense network beside it against the quiet level of all attempts, and by how many
    rounds counted; never by how well the architecture is predicted, which would flatter the table.
    """
    if not runs:
        return True
    quiet_s = quiet_level_s([run.dense_s for each in attempts.values() for run in each])
    if is_slow(min(run.loudest_s for run in runs), quiet_s):
        return True
    seen = sum(session.of for run in runs for session in run.sessions if session.timed == "whole")
    return is_scarce(sum(run.pairs for run in runs), seen)


def attempts_of(runs: list[Run]) -> dict[tuple[str, int], list[Run]]:
    """(purpose, run) → its attempts."""
    attempts: dict[tuple[str, int], list[Run]] = {}
    for run in runs:
        attempts.setdefault((run.purpose, run.run), []).append(run)
    return attempts


def as_run(purpose: str, number: int, attempt: int, architecture: Architecture, sample: Sample):
    """A sample as a table's row."""
    return Run(
        purpose=purpose,
        run=number,
        attempt=attempt,
        architecture=architecture,
        peak_memory_bytes=peak_memory_bytes(),
        measured_by=written_by(),
        **sample.fields(),
    )


def peak_memory_bytes() -> int:
    """The most memory that this process has held."""
    unit = 1 if sys.platform == "darwin" else 1024  # what the system counts in
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
