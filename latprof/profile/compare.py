"""Two ONNX files timed in pairs: is the second really faster here, and by how much?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from latprof import CannotRun, Disturbed, Throttled
from latprof.machine.cores import Cores
from latprof.machine.load import Snapshot, what_disturbs
from latprof.machine.pace import Pace, in_words
from latprof.profile.rounds import run_rounds
from latprof.runtimes import runtime_of
from lookup_tables.device import Device
from lookup_tables.errors import ContractError, DeviceMismatch
from lookup_tables.noise import Rounds, ratio_of, ratio_of_sessions, rounds_of_sessions

REPEATS = 8  # fresh sessions: where a session's memory lies moves its time
MOST_REPEATS = 20  # while they disagree, or were disturbed
ROUNDS, WARM_UP = 60, 5
PRECISIONS = {onnx.TensorProto.FLOAT: "fp32", onnx.TensorProto.FLOAT16: "fp16"}
HEAVY_S, FEWEST = 0.15, 10  # a round that takes so long needs so few
FEWEST_SESSIONS, FEWEST_ROUNDS = 5, 4  # that count; fewer are a refusal
CERTAIN, MOST_UNCERTAIN = 0.003, 0.01  # standard error of a speedup: enough, and a refusal beyond
HOPELESS = 3  # sessions
# On a shared core nine ratios of ten move by no more than this power of what arithmetic slows down
# (benchmarks/slow_phases.py).
SHIFT = 0.3


@dataclass(frozen=True, slots=True)
class Comparison:
    """Seconds of both and the speedup with the range over fresh sessions."""

    dense_s: float
    latency_s: float
    speedup: float
    speedup_low: float
    speedup_high: float
    pairs: int
    sessions: int  # fresh pairs of sessions that were opened
    quiet_sessions: int  # those that count
    unselected_speedup: float  # what all rounds of all sessions would say
    slow_phase: str = ""  # in which the whole comparison was made, in words; empty for none
    expected_low: float | None = None  # what a quiet comparison would be expected to give
    expected_high: float | None = None


def compare_files(dense: str | Path, pruned: str | Path, device: Device) -> Comparison:
    """Time two ONNX files alternately, run by run, in several fresh pairs of sessions.

    Sessions of a slow phase are left out, unless all are of one: the answer says so then. Raises
    ContractError for files that cannot be run or that read other shapes, DeviceMismatch for
    files of another precision than the device's, Throttled where a GPU never ran freely, Disturbed
    where the machine is too busy.
    """
    for path in (dense, pruned):
        require_precision(Path(path), device.precision)
    require_alike(Path(dense), Path(pruned), device.batch)
    on_processor = runtime_of(device).on_processor
    before, pace = Snapshot.take(), Pace(device, on_processor)
    series: list[Rounds] = []
    with Cores(device, on_processor) as cores:
        while len(series) < MOST_REPEATS and not _is_hopeless(series):
            levels = [levels[0] for rounds in series if (levels := rounds.levels_s())]
            quiet_s = min(levels, default=0.0)
            turned = len(series) % 2 == 1
            series.append(_rounds(Path(dense), Path(pruned), device, quiet_s, cores, pace, turned))
            counted, _ = _counted(series, certain=True)
            if len(counted) >= REPEATS and _ratio(counted)[1] <= CERTAIN:
                break
    pace.remember()
    counted, shared = _counted(series)
    refusal = (
        f"{dense} and {pruned} cannot be compared now: {{}}. {{}}. Try again when the machine is "
        "quiet"
    )
    if len(counted) < FEWEST_SESSIONS:
        found = f"{len(counted)} of {len(series)} sessions were undisturbed"
        raise Disturbed(refusal.format(what_disturbs(before, shared), found))
    ratio, error = _ratio(counted)
    if error > MOST_UNCERTAIN:
        found = f"{len(counted)} undisturbed sessions agree only to within ±{error:.1%}"
        raise Disturbed(refusal.format(what_disturbs(before, shared), found))
    ratios = [each.rounds.ratio(each.kept) for each in counted]
    dense_s = float(np.median([np.median(e.rounds.both_dense_s(e.kept)) for e in counted]))
    slowness = float(np.median(shared)) if shared else None
    moved = slowness**SHIFT if slowness else None
    return Comparison(
        dense_s=dense_s,
        latency_s=ratio * dense_s,
        speedup=1 / ratio,
        speedup_low=1 / max(ratios),
        speedup_high=1 / min(ratios),
        pairs=int(sum(each.kept.sum() for each in counted)),
        sessions=len(series),
        quiet_sessions=0 if slowness else len(counted),
        unselected_speedup=1 / ratio_of(series),
        slow_phase=in_words(slowness) if slowness else "",
        expected_low=1 / max(ratios) / moved if moved else None,
        expected_high=1 / min(ratios) * moved if moved else None,
    )


class _Session(NamedTuple):
    """A session that counts: which of its rounds do, and whether the pruned network came first."""

    rounds: Rounds
    kept: np.ndarray
    turned: bool


def _counted(series: Sequence[Rounds], certain: bool = False) -> tuple[list[_Session], list[float]]:
    """The sessions that count, and how slow the core was where all of them had to share it.

    Nothing of the second if enough sessions had the core to themselves. `certain`: only those.
    """
    for some in (series, [rounds.on_any_core() for rounds in series]):
        both = enumerate(zip(series, rounds_of_sessions(some), strict=True))
        sessions = [_Session(rounds, kept, number % 2 == 1) for number, (rounds, kept) in both]
        counted = [session for session in sessions if _is_enough(session.kept)]
        if certain or len(counted) >= FEWEST_SESSIONS:
            break
    is_shared = some is not series or len(counted) < FEWEST_SESSIONS
    return counted, [each for rounds in series if is_shared for each in rounds.shared()]


def _ratio(counted: Sequence[_Session]) -> tuple[float, float]:
    ratios = [each.rounds.ratio(each.kept) for each in counted]
    return ratio_of_sessions(ratios, [each.turned for each in counted])


def _is_enough(kept: np.ndarray) -> bool:
    return int(kept.sum()) >= FEWEST_ROUNDS


def _is_hopeless(series: Sequence[Rounds]) -> bool:
    """Whether the first sessions hardly had a round with its processors all the time."""
    return len(series) >= HOPELESS and not any(_is_enough(r.undisturbed()) for r in series)


def require_batch(path: Path, batch: int) -> None:
    """Raise ContractError unless the file is made for this batch size."""
    (first, *_) = _inputs(path).values()
    made_for = first.dimensions[0]
    if made_for not in (0, batch):
        raise ContractError(
            f"{path} is made for batches of {made_for}, but the table's device runs {batch}; "
            "export it for that batch size"
        )


def require_precision(path: Path, precision: str) -> None:
    """Raise DeviceMismatch if the file reads floats of another precision.

    A quantised network reads fp32.
    """
    read = "fp32" if precision == "int8" else precision
    for name, found in _inputs(path).items():
        if found.precision not in (None, read):
            raise DeviceMismatch(
                f"{path}: its input {name} is {found.precision}, but the device computes in "
                f"{precision}; export the file in that precision to time it there"
            )


def require_alike(dense: Path, pruned: Path, batch: int) -> None:
    """Raise ContractError unless both read the same: no speedup is one of other images."""
    first, second = (_shapes(path, _inputs(path), batch) for path in (dense, pruned))
    if [*first.values()] != [*second.values()]:
        raise ContractError(
            f"{dense} reads {first}, but {pruned} reads {second}; compare two networks with the "
            "same input"
        )


def _rounds(
    dense: Path,
    pruned: Path,
    device: Device,
    quiet_s: float,
    cores: Cores,
    pace: Pace,
    turned: bool = False,
) -> Rounds:
    """A fresh pair of sessions, run by turns; `turned`: the pruned network is opened first."""
    order = (pruned, dense) if turned else (dense, pruned)
    opened = [_opened(path, device) for path in order]
    first, second = reversed(opened) if turned else opened
    heavy = first.run_s() + second.run_s() > HEAVY_S
    for _ in range(1 if heavy else WARM_UP):
        first.run_s(), second.run_s()
    count = FEWEST if heavy else ROUNDS
    monitor = runtime_of(device).monitor(device)
    rounds = run_rounds(first.run, second.run, count, quiet_s, cores, monitor, pace)
    if all(rounds.throttled):
        raise Throttled(monitor.complaint())
    return rounds


def _opened(path: Path, device: Device):
    """The file in the runtime, run once: a session's first run is slow."""
    rng, inputs = np.random.default_rng(0), _inputs(path)
    feed = {
        name: rng.standard_normal(shape).astype(
            np.float16 if inputs[name].precision == "fp16" else np.float32
        )
        for name, shape in _shapes(path, inputs, device.batch).items()
    }
    try:
        opened = runtime_of(device).open(str(path), feed, device)
        opened.run_s()
    except CannotRun as error:
        raise ContractError(f"{path}: {error}") from error
    except ContractError:
        raise
    except Exception as error:  # the runtime's own kinds have no common name
        said = str(error).strip() or type(error).__name__
        raise ContractError(f"{path}: the runtime cannot run it: {said.splitlines()[0]}") from error
    return opened


class _Input(NamedTuple):
    """What a file says of an input: its dimensions, 0 for a free one; None if it is no float."""

    dimensions: list[int]
    precision: str | None


def _shapes(path: Path, inputs: dict[str, _Input], batch: int) -> dict[str, tuple[int, ...]]:
    """Of the inputs that the file declares; where the first dimension is free, `batch`."""
    found = {}
    for name, ((first, *others), _) in inputs.items():
        if 0 in others:
            raise ContractError(
                f"{path}: its input {name} has free dimensions besides the batch; export it with "
                "fixed sizes"
            )
        found[name] = (first or batch, *others)
    return found


def _inputs(path: Path) -> dict[str, _Input]:
    if not path.is_file():
        raise ContractError(f"{path}: no such ONNX file")
    try:
        graph = onnx.load(str(path), load_external_data=False).graph
    except DecodeError:
        raise ContractError(f"{path}: not a readable ONNX file") from None
    weights = {tensor.name for tensor in graph.initializer}
    return {
        entry.name: _Input(
            [d.dim_value for d in entry.type.tensor_type.shape.dim],
            PRECISIONS.get(entry.type.tensor_type.elem_type),
        )
        for entry in graph.input
        if entry.name not in weights
    }
