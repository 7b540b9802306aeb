"""The journey: a model, a table and a budget in; a smaller, fine-tuned, checked network out.

Every step leaves a file in the run's folder and is skipped when the file is there, so an
interrupted run continues with the same command and arrives at the same result.
"""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn

from lookup_tables.estimate import LatencyModel
from lookup_tables.network import Architecture
from lookup_tables.staircase import Staircase
from lookup_tables.table import LatencyTable
from pruner import models
from pruner.accuracy import accuracy, onnx_accuracy, recalibrate
from pruner.completion import Completion
from pruner.data import Data, load_data, require_fit
from pruner.errors import ModelError
from pruner.export import export_onnx
from pruner.filters import RANKINGS
from pruner.finetune import Recipe, fine_tune
from pruner.measured import NotMeasured, measure_pair
from pruner.methods import METHODS, SearchSettings
from pruner.report import write_report
from pruner.run_folder import RunFolder, Settings, write_json
from pruner.surgery import cut, keep_best, shrink
from pruner.task import SearchLog, Task
from pruner.trace import Trace, trace
from pruner.weights import load_weights, save_weights

Report = Callable[[str, int, int, str], None]  # step, done, of how many, what now
RESCORED = 5  # the search's best, scored again on all held-out images


def prune(settings: Settings, out: str | Path, report: Report = lambda *_: None) -> dict:
    """Run or continue a pruning run; returns the content of result.json.

    Raises BudgetError, TableError, ModelError, TraceError, DataError or RunError.
    """
    journey = Journey(settings, report)
    # Before a folder exists: a wrong table, model or budget leaves nothing behind.
    Completion(journey.latency).require(journey.budget_s, journey.score)
    _ = journey.data
    require_fit(journey.dense, journey.shape, journey.data)
    origin = {
        "versions": versions(),
        "commit": commit(),
        "input_shape": list(journey.shape),
        "table": table_identity(settings.table, journey.trace.network.name),
    }
    run = RunFolder.begin(out, settings, origin)
    with run.timed("search"):
        architecture = search(journey, run)
    with run.timed("fine_tune"):
        model = tune(journey, run, architecture)
    difference = export(journey, run, model)
    measured = measure(journey, run)
    return summarise(journey, run, architecture, model, measured, difference)


@dataclass
class Journey:
    """What the steps share, made when first asked for."""

    settings: Settings
    report: Report

    @cached_property
    def data(self) -> Data:
        self.report("load", 0, 1, f"reading {self.settings.data}")
        return load_data(self.settings.data, self.settings.data_dir)

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        return models.input_shape(self.settings.model) or self.data.shape

    @cached_property
    def dense(self) -> nn.Module:
        model = models.build(self.settings.model)
        load_weights(model, self.settings.weights)
        return model.to(memory_format=torch.channels_last).eval()

    @cached_property
    def trace(self) -> Trace:
        return trace(self.dense, self.shape, models.short_name(self.settings.model))

    @cached_property
    def latency(self) -> LatencyModel:
        """What the table predicts; offered are only widths at the right edges of its steps."""
        measured = LatencyModel.load(self.trace.network, self.settings.table)
        return measured.with_menu(Staircase(measured).menu())

    @property
    def budget_s(self) -> float:
        if self.settings.latency_ms is not None:
            return self.settings.latency_ms / 1e3
        return self.latency.dense_s / self.settings.speedup

    @cached_property
    def filter_scores(self) -> dict:
        return RANKINGS[self.settings.ranking](self.trace)

    def cut(self, architecture: Architecture) -> nn.Module:
        """The pruned model with its best-ranked filters and BatchNorm statistics of its own."""
        kept = keep_best(self.trace.network, architecture, self.filter_scores)
        model = cut(self.trace, architecture, kept)
        recalibrate(model, self.data.train, self.settings.recalibration_images, fast=True)
        return model

    def score(self, architecture: Architecture, count: int | None = None) -> float:
        """Accuracy before fine-tuning, on held-out training images."""
        return accuracy(self.cut(architecture), self.data.held_out, count, fast=True)


def search(journey: Journey, run: RunFolder) -> Architecture:
    """The best architecture within the budget that the method finds."""
    if run.architecture.exists():
        return Architecture.load(run.architecture)
    settings = journey.settings
    episodes = settings.episodes if settings.method != "uniform" else 1

    def progress(log: SearchLog) -> None:
        accuracy_now, best = log.best
        speedup = journey.latency.dense_s / journey.latency.latency_s(best)
        text = f"best {accuracy_now:.1%} before fine-tuning, predicted {speedup:.2f}×"
        journey.report("search", log.asked, episodes, text)

    log = SearchLog(
        run.search_log,
        lambda architecture: journey.score(architecture, settings.score_images),
        journey.latency,
        progress,
    )
    task = Task(journey.latency.network, journey.latency, journey.budget_s, log.score)
    METHODS[settings.method](
        task, SearchSettings(settings.episodes, settings.seed, settings.reward)
    )
    best = choose(journey, log)
    best.save(run.architecture)
    return best


def choose(journey: Journey, log: SearchLog) -> Architecture:
    """The best of the search's few best, on all held-out images: a small sample flatters."""
    within = [
        architecture
        for _, architecture in log.ranked()
        if journey.latency.latency_s(architecture) <= journey.budget_s * (1 + 1e-9)
    ][:RESCORED]
    if len(within) == 1:
        return within[0]
    return max(within, key=journey.score)


def tune(journey: Journey, run: RunFolder, architecture: Architecture) -> nn.Module:
    """The pruned model, fine-tuned; its weights are saved."""
    if run.weights.exists():
        return load_pruned(journey.trace, run)
    settings = journey.settings
    model = journey.cut(architecture)
    recipe = Recipe(epochs=settings.epochs, distill=settings.distill, seed=settings.seed)
    fine_tune(
        model,
        journey.data.train,
        recipe,
        run.checkpoint,
        journey.dense,
        lambda step, total, text: journey.report("fine-tune", step, total, text),
    )
    save_weights(model, run.weights)
    run.checkpoint.unlink(missing_ok=True)
    return model


def load_pruned(traced: Trace, run: RunFolder) -> nn.Module:
    """The run's architecture with its fine-tuned weights."""
    model = shrink(traced, Architecture.load(run.architecture))
    load_weights(model, run.weights)
    return model.eval()


def load_run(path: str | Path) -> nn.Module:
    """The fine-tuned model of a finished run, ready to use; raises RunError."""
    run = RunFolder.open(path)
    if not run.weights.exists():
        raise ModelError(f"{path}: the run has not been fine-tuned yet; continue it first")
    model = models.build(run.settings.model)
    shape = tuple(run.origin()["input_shape"])
    traced = trace(model, shape, models.short_name(run.settings.model))
    return load_pruned(traced, run)


def export(journey: Journey, run: RunFolder, model: nn.Module) -> float:
    """Both networks as ONNX; the pruned one's largest relative difference from PyTorch."""
    journey.report("export", 0, 1, "writing ONNX")
    if not run.dense_onnx.exists():
        export_onnx(journey.dense, journey.shape, run.dense_onnx, journey.latency.device.batch)
    return export_onnx(model, journey.shape, run.onnx, journey.latency.device.batch)


def measure(journey: Journey, run: RunFolder) -> dict | NotMeasured:
    """Paired timing where the table's device is at hand; kept once it was made."""
    if run.measured.exists():
        return json.loads(run.measured.read_text())
    journey.report("measure", 0, 1, "timing in pairs")
    measured = measure_pair(run.dense_onnx, run.onnx, Path(journey.settings.table))
    if not isinstance(measured, NotMeasured):
        write_json(run.measured, measured)
    return measured


def summarise(journey, run: RunFolder, architecture, model, measured, difference: float) -> dict:
    """Write result.json and report.html; the only step that sees the test set."""
    journey.report("report", 0, 1, "accuracy on the test set")
    latency, test = journey.latency, journey.data.test
    prediction = latency.predict_architectures([architecture])
    latency_s = float(prediction.latency_s[0])
    before = journey.trace.network
    result = {
        "asked": _latencies(latency.dense_s, journey.budget_s),
        "predicted": {
            **_latencies(latency.dense_s, latency_s),
            "low_ms": float(prediction.low_s[0]) * 1e3,
            "high_ms": float(prediction.high_s[0]) * 1e3,
            "interpolated": float(prediction.interpolated[0]),
        },
        "measured": None if isinstance(measured, NotMeasured) else measured,
        "not_measured_because": measured.reason if isinstance(measured, NotMeasured) else None,
        "accuracy": {
            "dense": accuracy(journey.dense, test),
            "pruned": accuracy(journey.cut(architecture), test),
            "fine_tuned": accuracy(model, test),
            "exported": onnx_accuracy(run.onnx, test),
            "test_images": len(test),
        },
        "macs": {
            "dense": int(before.macs(before.widths(before.dense))),
            "pruned": _macs(before, architecture),
        },
        "parameters": {"dense": _count(journey.dense), "pruned": _count(model)},
        "export_difference": difference,
        "seconds": run.seconds_spent(),
        "device": latency.device.model_dump(exclude_none=True),
        "settings": run.settings.model_dump(),
        "seed": run.settings.seed,
        **run.origin(),
    }
    write_json(run.result, result)
    write_report(run.report, result, latency, architecture)
    return result


def table_identity(folder: str, network: str) -> dict[str, str]:
    """The device's name and a digest of the network's rows."""
    table = LatencyTable.open(folder)
    digest = hashlib.sha256(table.path(network).read_bytes()).hexdigest()
    return {"device": table.device.name, "rows_sha256": digest}


def versions() -> dict[str, str]:
    names = ("latprof-pruner", "torch", "onnxruntime", "onnx", "stable-baselines3", "numpy")
    return {"python": platform.python_version()} | {name: version(name) for name in names}


def commit() -> str | None:
    """The commit of this checkout, `-dirty` if files differ; None where there is no checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    command += ["--abbrev=40", "--exclude=*"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:  # no git here
        return None
    return answer.stdout.strip() or None


def _latencies(dense_s: float, latency_s: float) -> dict[str, float]:
    return {
        "latency_ms": latency_s * 1e3,
        "dense_ms": dense_s * 1e3,
        "speedup": dense_s / latency_s,
    }


def _macs(network, architecture: Architecture) -> int:
    removed = dict.fromkeys(architecture.removed, True)
    return int(network.macs(network.widths(architecture), removed))


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
