"""The end of a run against a table in INT8: calibrated, judged, and repaired if too much is lost.

The network is quantised as it was fine-tuned. Where that costs more accuracy on held-out images
than allowed, a short quantisation-aware training follows, and the better of both networks stays.
"""

from __future__ import annotations

import copy
import os
from dataclasses import replace
from pathlib import Path

from torch import nn

from lookup_tables.architecture import Architecture
from pruner.data.images import Images
from pruner.graph.aware import learned, quantisation_aware
from pruner.graph.masks import masks_of
from pruner.graph.surgery import load_shrunk
from pruner.graph.trace import Trace, trace
from pruner.run.folder import RunFolder, write_json
from pruner.run.journey import Journey
from pruner.run.kernels import convert
from pruner.run.settings import Settings
from pruner.train.accuracy import accuracy, onnx_accuracy
from pruner.train.export import export_onnx
from pruner.train.finetune import fine_tune
from pruner.train.quantise import quantise_onnx, require_alike_in_int8
from pruner.train.sparsity import Held, Sparsity
from pruner.train.weights import save_weights

GENTLER = 0.1  # the repair's learning rate, of the fine-tuning's


def settle(journey: Journey, run: RunFolder, model: nn.Module) -> nn.Module:
    """The network that is handed back, in FP32: the fine-tuned one, or the repaired one.

    What was found is written to quantised.json, the repaired weights beside it.
    """
    if run.quantised.exists():
        return load_final(journey.trace, run)
    settings = journey.settings
    journey.report("quantise", 0, 1, "calibrating")
    before = _judged(journey, run, model)
    found: dict = {"fine_tuned": before, "repaired": None, "kept": "fine_tuned"}
    lost = before["fp32"] - before["int8"]
    if lost > settings.repair_above / 100 and settings.repair_epochs:
        repaired = _repaired(journey, run, model)
        found["repaired"] = _judged(journey, run, repaired)
        if found["repaired"]["int8"] > before["int8"]:
            found["kept"], model = "repaired", repaired
            save_weights(repaired, run.repaired_weights)
    write_json(run.quantised, found)
    run.repair_checkpoint.unlink(missing_ok=True)
    return model


def export_quantised(journey: Journey, run: RunFolder, model: nn.Module) -> float:
    """Both networks in FP32 and in INT8; the pruned FP32 one's difference from PyTorch.

    The difference is the largest, relative to the largest output. For sparse layers the network in
    INT8 is written twice, of plain ONNX with zeros in it and on the kernels.
    """
    device = journey.latency.device
    if not run.dense_onnx.exists():
        export_onnx(journey.dense, journey.shape, run.dense_fp32_onnx, device.batch)
        quantise(journey.settings, journey.data.train, run.dense_fp32_onnx, run.dense_onnx)
    difference = export_onnx(model, journey.shape, run.fp32_onnx, device.batch)
    plain = run.zeros_onnx if device.block else run.onnx
    quantise(journey.settings, journey.data.train, run.fp32_onnx, plain)
    if device.block:
        partial = run.onnx.with_suffix(".partial.onnx")
        convert(run.zeros_onnx, partial, device.block)
        if library := journey.kernels:
            images = journey.judged_by
            require_alike_in_int8(partial, run.zeros_onnx, library, images, run.onnx.name)
        os.replace(partial, run.onnx)
    return difference


def load_final(traced: Trace, run: RunFolder) -> nn.Module:
    """A run's architecture with the weights that it hands back."""
    return load_shrunk(traced, Architecture.load(run.architecture), run.final_weights)


def _judged(journey: Journey, run: RunFolder, model: nn.Module) -> dict[str, float]:
    """The score of held-out images, in FP32 and in INT8."""
    plain = run.path / "judged.onnx"
    try:
        export_onnx(model, journey.shape, run.fp32_onnx, journey.latency.device.batch)
        quantise(journey.settings, journey.data.train, run.fp32_onnx, plain)
        return {
            "fp32": accuracy(model, journey.judged_by, task=journey.task),
            "int8": onnx_accuracy(plain, journey.judged_by, task=journey.task),
        }
    finally:
        plain.unlink(missing_ok=True)


def quantise(settings: Settings, images: Images, plain: Path, out: Path) -> None:
    """Write the network of `plain` in INT8, calibrated on training images as the settings say."""
    quantise_onnx(plain, out, images, settings.calibration_images, settings.calibration)


def _repaired(journey: Journey, run: RunFolder, model: nn.Module) -> nn.Module:
    """The model after a training that knows about INT8; what is 0 in it stays so."""
    repaired = copy.deepcopy(model)
    aware = quantisation_aware(trace(copy.deepcopy(model), journey.shape, "repaired"))
    sparsity: Sparsity | None = None
    architecture = Architecture.load(run.architecture)
    if architecture.density:
        sparsity = Held(masks_of(model, architecture, journey.block))
    recipe = replace(
        journey.recipe,
        epochs=journey.settings.repair_epochs,
        rate=GENTLER * journey.settings.learning_rate,
        patience=0,
    )
    fine_tune(
        aware,
        journey.taught_by,
        recipe,
        run.repair_checkpoint,
        journey.dense,
        lambda step, total, text: journey.report("repair", step, total, text),
        task=journey.task,
        sparsity=sparsity,
    )
    repaired.load_state_dict(learned(aware))
    return repaired.eval()
