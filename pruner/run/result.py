"""A run's result: asked, predicted, measured and reached; only here the test set is seen."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from lookup_tables.architecture import Architecture
from lookup_tables.model.latency_model import LatencyModel
from lookup_tables.table.store import LatencyTable
from pruner.run.folder import RunFolder, read_json, write_json
from pruner.run.journey import Journey
from pruner.run.kernels import judged_file
from pruner.run.measured import NotTimed
from pruner.run.report.result import write_report
from pruner.search.log import read_log
from pruner.train.accuracy import details_of, judged, onnx_judged
from pruner.train.tasks import TASKS
from pruner.train.tasks.base import Pictured

SHOWN = 4  # test images in the report


class Models(NamedTuple):
    """A run's network after it was cut, and after fine-tuning."""

    cut: nn.Module
    fine_tuned: nn.Module


def summarise(
    journey: Journey,
    run: RunFolder,
    architecture: Architecture,
    models: Models,
    measured: dict | NotTimed,
    difference: float,
) -> dict:
    """Write result.json and report.html; the only step that sees the test set."""
    journey.report("report", 0, 1, "accuracy on the test set")
    latency, before, tried = journey.latency, journey.trace.network, read_log(run.search_log)
    epochs = read_json(run.training, made_anew=False) if run.training.exists() else []
    accuracies, details = _accuracies(journey, run, models)
    result = {
        "asked": _latencies(latency.dense_s, journey.budget_s),
        "predicted": _predicted(latency, architecture),
        "measured": None if isinstance(measured, NotTimed) else measured,
        "not_measured_because": measured.reason if isinstance(measured, NotTimed) else None,
        "task": journey.settings.task,
        "metric": TASKS[journey.settings.task].metric,
        "accuracy": accuracies,
        "details": details,
        "macs": {
            "dense": before.macs_of(before.dense),
            "pruned": before.macs_of(architecture),
        },
        "confirmed": read_json(run.confirmed) if run.confirmed.exists() else None,
        "front": len(read_json(run.front)["points"]) if run.front.exists() else None,
        "bought": bought(latency, architecture),
        "table_error": table_error(journey.table, journey.priced.name),
        "parameters": {"dense": _count(journey.trace.module), "pruned": _count(models.fine_tuned)},
        "export_difference": difference,
        "training": epochs,
        "seconds": _seconds(run, tried, epochs),
        "device": latency.device.model_dump(exclude_none=True),
        "settings": run.settings.model_dump(),
        "seed": run.settings.seed,
        **{name: value for name, value in run.origin().items() if name != "images"},
    }
    shown = _shown(journey, models)
    # First: a run counts as done once result.json is there.
    write_report(run.report, result, latency, architecture, tried, shown)
    write_json(run.result, result)
    return result


def _accuracies(
    journey: Journey, run: RunFolder, models: Models
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """On the test images: the task's score of every network of a run, and what else it tells."""
    test, task = journey.data.test, journey.task
    exported = judged_file(run, journey.kernels)
    found = {"dense": judged(journey.dense, test, task=task)}
    if journey.is_int8:
        found["dense_int8"] = onnx_judged(run.dense_onnx, test, task=task)
    found |= {
        "pruned": judged(models.cut, test, task=task),
        "fine_tuned": judged(models.fine_tuned, test, task=task),
        "exported": onnx_judged(exported, test, task=task, library=journey.kernels),
    }
    scores = {name: metric.compute() for name, metric in found.items()}
    details = {name: told for name, metric in found.items() if (told := details_of(metric))}
    return scores | {"test_images": len(test)}, details


def _shown(journey: Journey, models: Models) -> bytes | None:
    """A picture of what the dense network and the pruned one answer to the first test images."""
    task, test = journey.task, journey.data.test
    if not isinstance(task, Pictured):
        return None
    images, targets = test.batch(torch.arange(min(SHOWN, len(test))))
    with torch.inference_mode():
        answers = [model.eval()(images) for model in (journey.dense, models.fine_tuned)]
    return task.pictured(images, answers, targets)


def _predicted(latency: LatencyModel, architecture: Architecture) -> dict[str, float]:
    found = latency.predict_architectures([architecture])
    return {
        **_latencies(latency.dense_s, float(found.latency_s[0])),
        "low_ms": float(found.low_s[0]) * 1e3,
        "high_ms": float(found.high_s[0]) * 1e3,
        "interpolated": float(found.interpolated[0]),
    }


def _seconds(run: RunFolder, tried: list[dict], epochs: list[dict]) -> dict[str, float]:
    """Seconds of each step; of a killed session at least those of its scores and its epochs."""
    known = {
        "search": sum(row.get("evaluation_s", 0.0) for row in tried),
        "fine_tune": sum(epoch["seconds"] for epoch in epochs),
    }
    spent = run.seconds_spent()
    return {step: max(seconds, spent.get(step, 0.0)) for step, seconds in known.items()}


def table_error(table: LatencyTable, network: str) -> dict[str, float] | None:
    """How wrong the table was on unseen networks, relative; None if its profile has not finished.

    `menu` of networks on the menu of widths, `any` of networks at any width.
    """
    found = {kind: table.validation(network, kind) for kind in ("menu", "any")}
    return {kind: judged.rmspe for kind, judged in found.items() if judged} or None


def bought(latency: LatencyModel, architecture: Architecture) -> list[dict]:
    """Which layers' time was saved, most first; below 0 where a layer became slower."""
    now = {layer.name: layer.seconds for layer in latency.layers(architecture)}
    found = [
        {
            "layer": layer.name,
            "dense_ms": layer.seconds * 1e3,
            "pruned_ms": now.get(layer.name, 0.0) * 1e3,  # a removed layer takes none
        }
        for layer in latency.layers(latency.network.dense)
    ]
    return sorted(found, key=lambda row: row["pruned_ms"] - row["dense_ms"])


def _latencies(dense_s: float, latency_s: float) -> dict[str, float]:
    return {
        "latency_ms": latency_s * 1e3,
        "dense_ms": dense_s * 1e3,
        "speedup": dense_s / latency_s,
    }


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
