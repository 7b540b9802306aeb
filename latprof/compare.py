"""Two ONNX files timed in pairs: is the second really faster here, and by how much?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from latprof.cores import Cores
from latprof.errors import CannotRun, Disturbed, Throttled
from latprof.machine import Snapshot
from latprof.measure import run_rounds, runtime, what_disturbs
from lookup_tables.device import Device
from lookup_tables.errors import ContractError, DeviceMismatch
from lookup_tables.noise import Rounds, rounds_that_count
from lookup_tables.table import DISTURBED

REPEATS = 7  # fresh sessions: where a session's memory lies moves its time
MOST_REPEATS = 3 * REPEATS  # on a machine that is seldom quiet
ROUNDS, WARM_UP = 60, 5
PRECISIONS = {onnx.TensorProto.FLOAT: "fp32", onnx.TensorProto.FLOAT16: "fp16"}
HEAVY_S, FEWEST = 0.15, 10  # a round that takes so long needs so few
FEWEST_SESSIONS, FEWEST_ROUNDS = 5, 4  # that count; fewer are a refusal
MOST_UNCERTAIN = 0.015  # standard error of a speedup; more is a refusal
HOPELESS = 3  # sessions


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


def compare(dense: str | Path, pruned: str | Path, device: Device) -> Comparison:
    """Time two ONNX files alternately, run by run, in several fresh pairs of sessions.

    Raises ContractError for files that cannot be run or that read other shapes, DeviceMismatch for
    files of another precision than the device's, Throttled where a GPU never ran freely, Disturbed
    where the machine is too busy.
    """
    for path in (dense, pruned):
        require_precision(Path(path), device.precision)
    require_alike(Path(dense), Path(pruned), device.batch)
    before = Snapshot.take()
    series: list[Rounds] = []
    with Cores(device) as cores:
        while len(series) < MOST_REPEATS and not _is_hopeless(series):
            levels = [levels[0] for rounds in series if (levels := rounds.levels_s())]
            quiet_s = min(levels, default=0.0)
            series.append(_rounds(Path(dense), Path(pruned), device, quiet_s, cores))
            if sum(map(_is_enough, quiet_rounds(series))) >= REPEATS:
                break
    counted = [
        (rounds, kept)
        for rounds, kept in zip(series, quiet_rounds(series), strict=True)
        if _is_enough(kept)
    ]
    if len(counted) < FEWEST_SESSIONS:
        raise Disturbed(
            f"{dense} and {pruned} cannot be compared now: {what_disturbs(before)}. "
            f"{len(counted)} of {len(series)} sessions found an undisturbed moment. Try again when "
            "that has ended"
        )
    ratios = [float(np.median(r.pruned_s[kept] / r.beside_s[kept])) for r, kept in counted]
    if uncertainty(ratios) > MOST_UNCERTAIN:
        raise Disturbed(
            f"{dense} and {pruned} cannot be compared now: {what_disturbs(before)}. "
            f"{len(ratios)} sessions' undisturbed moments agree to ±{uncertainty(ratios):.1%} "
            "only. Try again when that has ended"
        )
    ratio = float(np.median(ratios))
    dense_s = float(np.median([np.median(r.beside_s[kept]) for r, kept in counted]))
    return Comparison(
        dense_s=dense_s,
        latency_s=ratio * dense_s,
        speedup=1 / ratio,
        speedup_low=1 / max(ratios),
        speedup_high=1 / min(ratios),
        pairs=int(sum(kept.sum() for _, kept in counted)),
        sessions=len(series),
        quiet_sessions=len(counted),
        unselected_speedup=1 / float(np.median(np.concatenate([_ratios(r) for r in series]))),
    )


def uncertainty(ratios: Sequence[float]) -> float:
    """The relative standard error of the median of fresh sessions' ratios."""
    logs = np.log(ratios)
    scatter = 1.4826 * np.median(np.abs(logs - np.median(logs)))
    return float(1.2533 * scatter / np.sqrt(len(ratios)))  # √(π/2): a median's, not a mean's


def _ratios(rounds: Rounds) -> np.ndarray:
    return rounds.pruned_s / rounds.beside_s


def quiet_rounds(series: Sequence[Rounds]) -> list[np.ndarray]:
    """The rounds that count of each session; none of a session whose level was another.

    A session's memory moves its level by a few percent; what lies further off met a slow phase.
    """
    levels = [rounds.levels_s() for rounds in series]
    met = [each for each in levels if each is not None]
    if not met:
        return [rounds.undisturbed() for rounds in series]
    best = np.min(met, axis=0)
    kept = []
    for rounds, level in zip(series, levels, strict=True):
        near = level is not None and bool(np.all(np.array(level) <= DISTURBED * best))
        (of_session,) = rounds_that_count([rounds])
        kept.append(of_session & near)
    return kept


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
            f"{path} is made for batches of {made_for}, the table's device runs {batch}; export "
            "it for that batch size"
        )


def require_precision(path: Path, precision: str) -> None:
    """Raise DeviceMismatch if the file reads floats of another precision."""
    for name, found in _inputs(path).items():
        if found.precision not in (None, precision):
            raise DeviceMismatch(
                f"{path}: its input {name} is {found.precision}, the device computes in "
                f"{precision}; export the file in that precision to time it there"
            )


def require_alike(dense: Path, pruned: Path, batch: int) -> None:
    """Raise ContractError unless both read the same: no speedup is one of other images."""
    first, second = (_shapes(path, _inputs(path), batch) for path in (dense, pruned))
    if [*first.values()] != [*second.values()]:
        raise ContractError(f"{dense} reads {first}, {pruned} reads {second}")


def _rounds(dense: Path, pruned: Path, device: Device, quiet_s: float, cores: Cores) -> Rounds:
    first, second = (_opened(path, device) for path in (dense, pruned))
    heavy = first.run_s() + second.run_s() > HEAVY_S
    for _ in range(1 if heavy else WARM_UP):
        first.run_s(), second.run_s()
    count = FEWEST if heavy else ROUNDS
    monitor = runtime(device).Monitor(device)
    rounds = run_rounds(first.run, second.run, count, quiet_s, cores, monitor)
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
        opened = runtime(device).Running(str(path), feed, device)
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
                f"{path}: its input {name} has free dimensions beside the batch; export it with "
                "the size that it runs with"
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
