"""How wrong the tables are on architectures they never saw, beside the alternatives, in one run.

For every network and thread count: unseen architectures on the menu and at any width from a quarter
to full are measured in fresh sessions, each beside the dense network; then predicted by the table,
by the straight line in FLOPs, and by layers timed alone and summed. One file a network and device,
results/latency_error/NAME_DEVICE.json, so that it can be interrupted: what is there is not measured
again (delete it to do so).

    python -m benchmarks.latency_error [--threads 1] [--samples 200] [NETWORK …]
"""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.results import RESULTS, save
from latprof.cpu import Running
from latprof.detect import Usage, this_device
from latprof.onnx_model import layer_models
from latprof.validate import flops_line, fresh_runs, rank_correlation, validation
from lookup_tables.device import Device
from lookup_tables.estimate import LatencyModel
from lookup_tables.network import Architecture, Network
from lookup_tables.table import DATA, LatencyTable, Run, undisturbed

NETWORKS = ["resnet56", "mobilenet_v1", "vgg16_32", "resnet18", "yolov3"]
ALONE = 20  # architectures whose layers are also timed alone
ALONE_RUNS, ALONE_WARM_UP, ALONE_MOST_S = 15, 3, 0.1


def main(
    networks: Annotated[list[str] | None, typer.Argument()] = None,
    threads: int = 1,
    samples: int = 200,
    tables: Path = DATA,
) -> None:
    device = this_device("cpu", Usage(threads))
    for name in networks or NETWORKS:
        result = f"latency_error/{name}_{device.name}"
        folder = tables / device.name
        if (RESULTS / f"{result}.json").exists() or not (folder / f"{name}.jsonl").exists():
            print(f"{name}: already there, or no table in {folder}")
            continue
        table = LatencyTable.open(folder)
        device.require(table.device, str(folder))
        print(save(result, measure(Network.load(name), table, samples)))


def measure(network: Network, table: LatencyTable, samples: int) -> dict:
    """Both kinds of widths, every method, and the architectures themselves."""
    # Large networks take a second a run.
    model = LatencyModel(network, table)
    count = samples if model.dense_s < 0.1 else max(20, samples // 5)
    start_s = time.perf_counter()
    runs = fresh_runs(network, table, 2 * count, seed=2026)
    spent_s = time.perf_counter() - start_s
    answer = {
        "network": network.name,
        "device": table.device.model_dump(exclude_none=True),
        "table_measured_at": table.validation(network.name).measured_at,
        "measuring_s": spent_s,
        "steps": {kind: step._asdict() for kind, step in model.steps.items()},
        "calibration": asdict(model.calibration),
    }
    for widths in ("menu", "any"):
        summary = validation(model, table, runs, widths, spent_s)
        answer[widths] = summary.model_dump(exclude={"row"}, exclude_none=True)
        of_kind = [
            r for r in undisturbed(runs) if model.off_menu(r.architecture) == (widths == "any")
        ]
        answer[widths]["alone"] = alone(network, table, of_kind[:ALONE])
        predicted = model.predict_architectures([run.architecture for run in of_kind])
        answer[widths]["architectures"] = [
            {
                "measured_ratio": run.ratio,
                "predicted_ratio": float(seconds) / model.dense_s,
                "removed": len(run.architecture.removed),
            }
            for run, seconds in zip(of_kind, predicted.latency_s, strict=True)
        ]
    return answer


def alone(network: Network, table: LatencyTable, runs: list[Run]) -> dict:
    """Every layer in a session of its own, summed, against the same measured ratios.

    As it comes, and after a straight line fitted to the very ratios it is judged by: the best that
    any calibration could make of it.
    """
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
    measured = np.array([run.ratio for run in runs])
    summed = np.array([total(run.architecture) for run in runs]) / dense_s
    features = np.stack([summed, np.ones_like(summed)], axis=1) / measured[:, None]
    line, *_ = np.linalg.lstsq(features, np.ones(len(runs)), rcond=None)
    fitted = features @ line - 1
    model = LatencyModel(network, table)
    table_errors = model.errors(runs)
    flops = flops_line(network, table.settled_runs(network, "design"), runs) / measured - 1
    return {
        "architectures": len(runs),
        "layers_timed": len(known),
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
