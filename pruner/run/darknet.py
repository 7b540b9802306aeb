"""A run's detector as Darknet's files: its weights, and beside them its list of layers."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from lookup_tables.storage.files import write_whole
from pruner import RunError
from pruner.graph.trace import Trace, trace
from pruner.run.folder import RunFolder
from pruner.run.prune import load_run
from pruner.train import darknet
from pruner.train.export import tensors_of
from pruner.train.tasks import TASKS
from pruner.train.tasks.detection import Detection


def export_darknet(folder: str | Path, out: Path) -> int:
    """Write `out` and a .cfg beside it; returns how many convolutions there are.

    Raises RunError for a run of another task, and for what Darknet does not know ExportError or
    ModelError.
    """
    run = RunFolder.open(folder)
    task = TASKS[run.settings.task].make(run.settings.own("task"))
    if not isinstance(task, Detection):
        raise RunError(f"--out {out}: Darknet's files are for detectors; end it in .onnx")
    shape, classes = tuple(run.origin()["input_shape"]), run.origin()["classes"]
    traced = trace(load_run(folder), shape, "pruned")
    _require_its_slope(traced, out)
    pairs = _in_order(traced)
    maps = len(tensors_of(traced.module(torch.zeros(1, *shape))))
    listed = darknet.configuration(traced.network, pairs, task.anchors(maps), classes)
    darknet.write_darknet(pairs, out)
    write_whole(out.with_suffix(".cfg"), listed)
    return len(pairs)


def _in_order(traced: Trace) -> list[darknet.Pair]:
    """Convolutions with their BatchNorm, in the order in which they are executed."""
    modules = dict(traced.module.named_modules())
    found: list[darknet.Pair] = []
    for layer in traced.network.layers:
        conv, norm = modules.get(layer.name), modules.get(traced.batch_norms.get(layer.name, ""))
        if isinstance(conv, nn.Conv2d):
            found.append((conv, norm if isinstance(norm, nn.BatchNorm2d) else None))
    return found


def _require_its_slope(traced: Trace, out: Path) -> None:
    """Raise RunError for a leaky ReLU that Darknet does not have."""
    for path, module in traced.module.named_modules():
        if isinstance(module, nn.LeakyReLU) and module.negative_slope != darknet.LEAKY:
            raise RunError(
                f"--out {out}: {path} has the slope {module.negative_slope:g}; Darknet's leaky "
                f"ReLU has {darknet.LEAKY:g}"
            )
