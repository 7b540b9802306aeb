"""How wrong the tables are on architectures they never saw, beside the alternatives, in one run.

For every network and thread count: unseen architectures on the menu and at any width from a quarter
to full are measured in fresh sessions, each beside the dense network; then predicted by the table,
by the straight line in FLOPs, and by layers timed alone and summed. One file a network and device,
results/latency_error/NAME_DEVICE.json, so that it can be interrupted: what is there is not measured
again (delete it to do so), only predicted again by the table as it now is; of another device's
results, with `--device`, nothing else.

    python -m benchmarks.latency_error [--threads 1] [--samples 100] [--device NAME] [NETWORK …]
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.results import RESULTS, save
from latprof.onnx.writer import layer_models
from latprof.profile.judge import flops_line, fresh_runs, rank_correlation, validation
from latprof.runtimes.base import Usage
from latprof.runtimes.here import this_device
from latprof.runtimes.ort_cpu import Running
from lookup_tables.architecture import Architecture
from lookup_tables.device import Device
from lookup_tables.model.latency_model import LatencyModel
from lookup_tables.network import Network
from lookup_tables.table.home import DATA
from lookup_tables.table.rows import Run
from lookup_tables.table.settled import undisturbed
from lookup_tables.table.store import LatencyTable

NETWORKS = ["resnet56", "mobilenet_v1", "vgg16_32", "resnet18", "yolov3"]
WIDTHS = ("menu", "any")
ALONE = 20  # architectures whose layers are also timed alone
ALONE_RUNS, ALONE_WARM_UP, ALONE_MOST_S = 15, 3, 0.1


def main(
    networks: Annotated[list[str] | None, typer.Argument()] = None,
    threads: int = 1,
    samples: int = 100,  # of each kind of widths
    tables: Path = DATA,
    device: str | None = None,
) -> None:
    here = this_device("cpu", Usage(threads))
    folder = tables / (device or here.name)
    for name in networks or NETWORKS:
        result = f"latency_error/{name}_{folder.name}"
        if not (folder / f"{name}.jsonl").exists():
            print(f"{name}: no table in {folder}")
            continue
        table, network = LatencyTable.open(folder), Network.load(name)
        path = RESULTS / f"{result}.json"
        if path.exists():
            measured = json.loads(path.read_text())["measured"]
        else:
            here.require(table.device, str(folder))
            measured = measure(network, table, samples)
        print(save(result, judge(network, table, measured)))


def measure(network: Network, table: LatencyTable, samples: int) -> dict:
    """Unseen networks as a whole, and the layers of some of them alone."""
    model = LatencyModel(network, table)
    # Large networks take a second a run.
    count = samples if model.dense_s < 0.1 else max(20, samples // 5)
    start_s = time.perf_counter()
    runs = fresh_runs(network, table, 2 * count, seed=2026)
    spent_s = time.perf_counter() - start_s
    quiet = undisturbed(runs)
    sums: dict[str, list] = {}
    for widths in WIDTHS:
        some = [run for run in quiet if model.off_menu(run.architecture) == (widths == "any")]
        sums[widths] = sums_alone(network, table, [r.architecture for r in some[:ALONE]])
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "table_measured_at": table.validation(network.name).measured_at,
        "seconds": spent_s,
        "alone_ratio": sums,
        "runs": [
            run.model_dump(mode="json", exclude={"peak_memory_bytes"}, exclude_defaults=True)
            for run in runs
        ],
    }


def judge(network: Network, table: LatencyTable, measured: dict) -> dict:
    """Every method's error on what was measured, for both kinds of widths."""
    model = LatencyModel(network, table)
    runs = [Run(**run) for run in measured["runs"]]
    answer = {
        "network": network.name,
        "device": table.device.model_dump(exclude_none=True),
        "steps": {kind: step._asdict() for kind, step in model.steps.items()},
        "calibration": asdict(model.calibration),
    }
    for widths in WIDTHS:
        summary = validation(model, table, runs, widths, measured["seconds"])
        left_out = {"row", "peak_memory_bytes", "measured_at"}
        answer[widths] = summary.model_dump(exclude=left_out, exclude_none=True)
        of_kind = [
            r for r in undisturbed(runs) if model.off_menu(r.architecture) == (widths == "any")
        ]
        predicted = model.predict_architectures([run.architecture for run in of_kind])
        answer[widths]["predicted_ratio"] = (predicted.latency_s / model.dense_s).tolist()
        answer[widths]["measured_ratio"] = [run.ratio for run in of_kind]
        alone_ratio = measured["alone_ratio"][widths]
        answer[widths]["alone"] = alone(model, table, of_kind[: len(alone_ratio)], alone_ratio)
    return answer | {"measured": measured}


def sums_alone(
    network: Network, table: LatencyTable, architectures: list[Architecture]
) -> list[float]:
    """Every layer in a session of its own, summed, as a share of the dense network's sum."""
    known: dict[tuple, float] = {}

    def total(architecture: Architecture) -> float:
        seconds = 0.0
        for layer in layer_models(network, architecture, table.device.batch):
            key = (layer.spec, layer.in_shapes)
            if key not in known:
                known[key] = _alone_s(layer, table.device)
            seconds += known[key]
        return seconds

    dense_s = total(network.dense)
    return [total(architecture) / dense_s for architecture in architectures]


def alone(model: LatencyModel, table: LatencyTable, runs: list[Run], sums: list[float]) -> dict:
    """Layers timed alone against the measured ratios of the same architectures.

    As they come, and after a straight line fitted to the very ratios they are judged by: the best
    that any calibration could make of them.
    """
    measured, summed = np.array([run.ratio for run in runs]), np.array(sums)
    features = np.stack([summed, np.ones_like(summed)], axis=1) / measured[:, None]
    line, *_ = np.linalg.lstsq(features, np.ones(len(runs)), rcond=None)
    fitted = features @ line - 1
    table_errors = model.errors(runs)
    off_menu = model.off_menu(runs[0].architecture)
    design = table.settled_runs(model.network, "design")
    design = [run for run in design if model.off_menu(run.architecture) == off_menu]
    flops = flops_line(model.network, design, runs) / measured - 1
    return {
        "architectures": len(runs),
        "rmspe": _rms(summed / measured - 1),
        "rmspe_after_best_line": _rms(fitted),
        "worst": float(np.abs(summed / measured - 1).max()),
        "rank_correlation": rank_correlation(summed, measured),
        "table_rmspe_on_the_same": _rms(table_errors),
        "flops_rmspe_on_the_same": _rms(flops),
    }


def _alone_s(layer, device: Device) -> float:
    rng = np.random.default_rng(0)
    feed = {
        name: rng.standard_normal(shape).astype(np.float32)
        for name, shape in zip(layer.input_names, layer.in_shapes, strict=True)
    }
    session = Running(layer.model().SerializeToString(), feed, device)
    for _ in range(ALONE_WARM_UP):
        session.run_s()
    times, start_s = [], time.perf_counter()
    while len(times) < ALONE_RUNS and time.perf_counter() - start_s < ALONE_MOST_S:
        times.append(session.run_s())
    return float(np.median(times or [session.run_s()]))


def _rms(errors: np.ndarray) -> float:
    return float(np.sqrt(np.mean(errors**2)))


if __name__ == "__main__":
    typer.run(main)
