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
from latprof.errors import CannotRun, Throttled
from latprof.measure import Rounds, run_rounds, runtime
from lookup_tables.device import Device
from lookup_tables.errors import ContractError, DeviceMismatch
from lookup_tables.table import DISTURBED

REPEATS = 7  # fresh sessions: where a session's memory lies moves its time
MOST_REPEATS = 3 * REPEATS  # on a machine that is seldom quiet
ROUNDS, WARM_UP = 60, 5
PRECISIONS = {onnx.TensorProto.FLOAT: "fp32", onnx.TensorProto.FLOAT16: "fp16"}
HEAVY_S, FEWEST = 0.15, 10  # a round that takes so long needs so few


@dataclass(frozen=True, slots=True)
class Comparison:
    """Seconds of both and the speedup with the range over fresh sessions."""

    dense_s: float
    latency_s: float
    speedup: float
    speedup_low: float
    speedup_high: float
    pairs: int


def compare(dense: str | Path, pruned: str | Path, device: Device) -> Comparison:
    """Time two ONNX files alternately, run by run, in several fresh pairs of sessions.

    Raises ContractError for files that cannot be run or that read other shapes, DeviceMismatch for
    files of another precision than the device's, Throttled where a GPU never ran freely.
    """
    for path in (dense, pruned):
        require_precision(Path(path), device.precision)
    require_alike(Path(dense), Path(pruned), device.batch)
    series: list[Rounds] = []
    quiet_s = 0.0
    with Cores(device) as cores:
        while len(quiet_sessions(series)) < REPEATS and len(series) < MOST_REPEATS:
            series.append(_rounds(Path(dense), Path(pruned), device, quiet_s, cores))
            quiet_s = min(float(np.percentile(rounds.dense_s, 25)) for rounds in series)
    ratios, dense_times, pairs_kept = [], [], 0
    for rounds in quiet_sessions(series):
        kept = rounds.kept(quiet_s)
        ratios.append(float(np.median(rounds.pruned_s[kept] / rounds.beside_s[kept])))
        dense_times.append(float(np.median(rounds.beside_s[kept])))
        pairs_kept += int(kept.sum())
    ratio = float(np.median(ratios))
    dense_time_s = float(np.median(dense_times))
    return Comparison(
        dense_s=dense_time_s,
        latency_s=ratio * dense_time_s,
        speedup=1 / ratio,
        speedup_low=1 / max(ratios),
        speedup_high=1 / min(ratios),
        pairs=pairs_kept,
    )


def quiet_sessions(series: Sequence[Rounds]) -> list[Rounds]:
    """Those in which the dense network was about as fast as in the fastest.

    Judged by the dense network alone, never by the ratio. A few will do where the others never
    found a quiet moment.
    """
    if not series:
        return []
    dense_s = np.array([np.percentile(rounds.dense_s, 25) for rounds in series])
    return [
        rounds for rounds, s in zip(series, dense_s, strict=True) if s <= DISTURBED * min(dense_s)
    ]


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
    rounds = run_rounds(first.run_s, second.run_s, count, quiet_s, cores, monitor)
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
