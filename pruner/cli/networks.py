"""`pruner trace`, `evaluate` and `export`: one network, its graph, its score, its file."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import nn

from pruner import RunError, TraceError, models
from pruner.cli.options import (
    DataDirOption,
    DataOption,
    ImageSizeOption,
    JsonOption,
    ModelOption,
    NormalisationOption,
    read_data,
    task_by,
)
from pruner.cli.progress import console
from pruner.data import IMAGE_SIZE
from pruner.data.images import Images
from pruner.graph.capture import drop_paths
from pruner.graph.check import require_right_cuts
from pruner.graph.trace import trace as trace_model
from pruner.run.darknet import export_darknet
from pruner.run.folder import RunFolder
from pruner.run.kernels import judged_file, library
from pruner.run.prune import load_run
from pruner.train import darknet
from pruner.train.accuracy import details_of, judged, onnx_accuracy
from pruner.train.export import export_onnx
from pruner.train.tasks import TASKS
from pruner.train.tasks.base import VisionTask
from pruner.train.weights import load_weights


def trace(
    model: ModelOption,
    out: Annotated[Path, typer.Option(help="The network file to write.")],
    weights: Annotated[
        Path | None, typer.Option(help="Weights to check against the model.")
    ] = None,
    input_: Annotated[
        str | None,
        typer.Option("--input", help="C×H×W, such as 3x32x32. Not needed for shipped models."),
    ] = None,
    classes: Annotated[
        int | None, typer.Option(min=1, help="Number of classes of a shipped model.")
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Cut it at random three times, and compare with the dense network that does not "
            "hear the other channels.",
        ),
    ] = False,
) -> None:
    """Turn a PyTorch model into a network file: its layers, channel groups and removable blocks."""
    if classes is not None and model not in models.MODELS:
        raise RunError(f"--classes: {model} sets its own number of classes; leave --classes out")
    # A user's own may compute numbers.
    shapes_only = weights is None and not check and model in models.MODELS
    with torch.device("meta" if shapes_only else "cpu"):
        built = models.build(model, classes)
    if weights is not None:
        load_weights(built, weights)
    shape = _shape(model, input_)
    traced = trace_model(built, shape, models.short_name(model, classes, shape))
    network = traced.network
    worst = require_right_cuts(traced) if check else None
    network.save(out)
    plain = [block.name for block in network.blocks if network.is_plain(block)]
    print(
        f"{out}: {len(network.layers)} layers, {len(network.groups)} groups, "
        f"{len(network.shortcuts)} removable blocks"
        + (f", {len(plain)} removable layers: {_some(plain)}" if plain else "")
    )
    if worst is not None:
        print(f"cut at random, it answers as it should: largest difference {worst:.0e}")
    reasons: dict[str, list[str]] = {}
    for layer, why in traced.kept.items():
        reasons.setdefault(why, []).append(layer)
    for why, layers in reasons.items():
        print(f"keep their width, because {why}: {_some(layers)}")
    if dropped := drop_paths(built):
        print(f"drop-path is off from here on, in training too: {_some(dropped)}")


def evaluate(
    data: DataOption,
    data_dir: DataDirOption = None,
    normalisation: NormalisationOption = "imagenet",
    image_size: ImageSizeOption = None,
    model: Annotated[str | None, typer.Option(help="Model name; needs --weights.")] = None,
    weights: Annotated[Path | None, typer.Option(help="The model's weights.")] = None,
    run: Annotated[Path | None, typer.Option(help="A run's folder, instead of --model.")] = None,
    onnx: Annotated[bool, typer.Option(help="Export too, and evaluate the ONNX file.")] = True,
    task: Annotated[
        str | None,
        typer.Option(help="What the model predicts. Default: the run's task, else classification."),
    ] = None,
    json_: JsonOption = False,
    **words: Any,
) -> None:
    """Measure accuracy on the test set, in PyTorch and after export to ONNX."""
    others = (model, weights)
    if not (all(others) if run is None else not any(others)):
        raise RunError("give either --model with --weights, or --run")
    if run is not None and (told := RunFolder.open(run).settings).data == data:
        normalisation = told.normalisation
        if image_size not in (None, told.image_size):
            raise RunError(
                f"--image-size {image_size}: the run's network is for images of "
                f"{told.image_size or IMAGE_SIZE}; leave it out"
            )
        image_size = told.image_size
    images = read_data(data, data_dir, normalisation, image_size)
    if run is not None:
        built, shape = load_run(run), tuple(RunFolder.open(run).origin()["input_shape"])
    else:
        assert model is not None
        assert weights is not None
        built = models.build(model, images.classes)
        console.print(f"{weights}: {load_weights(built, weights)}", highlight=False, soft_wrap=True)
        shape = models.shape_for(model, images.shape)
    of_run = RunFolder.open(run).settings if run else None
    name = task or (of_run.task if of_run else "classification")
    own = of_run.task_settings if of_run and of_run.task == name else {}
    by = task_by(name, own | {setting: v for setting, v in words.items() if v is not None})
    by.check(built, shape, images)
    found = judged(built, images.test, task=by)
    answer = {"accuracy": found.compute(), "test_images": len(images.test), **details_of(found)}
    if onnx:
        folder = Path(run) if run else None
        answer["onnx_accuracy"] = _onnx_accuracy(built, shape, images.test, folder, by)
    if json_:
        print(json.dumps(answer, indent=1))
        return
    print(f"{answer['accuracy']:.2%} {TASKS[name].metric} on {answer['test_images']} test images")
    for word, share in details_of(found).items():
        print(f"{share:.2%} {word}")
    if onnx:
        print(f"{answer['onnx_accuracy']:.2%} after export to ONNX")


def export(
    run: Annotated[Path, typer.Option(help="The folder of a fine-tuned run.")],
    out: Annotated[Path, typer.Option(help="The .onnx or .weights file to write.")],
    batch: Annotated[int, typer.Option(min=1, help="Images per inference.")] = 1,
    half: Annotated[bool, typer.Option("--half", help="Half precision.")] = False,
) -> None:
    """Export a run's network: ONNX for another batch size or in half precision, or Darknet's files.

    FILE.weights writes FILE.cfg beside it.
    """
    if out.suffix == darknet.SUFFIX:
        count = export_darknet(run, out)
        print(f"{out}: {count} convolutions; {out.with_suffix('.cfg')} lists the layers")
        return
    if out.suffix != ".onnx":
        raise RunError(
            f"--out {out}: networks are written as ONNX; end it in .onnx, or for a detector in "
            f"Darknet's {darknet.SUFFIX}"
        )
    shape = tuple(RunFolder.open(run).origin()["input_shape"])
    difference = export_onnx(load_run(run), shape, out, batch, "fp16" if half else "fp32")
    print(f"{out}: batch {batch}, largest difference from PyTorch {difference:.1e}")
    block = RunFolder.open(run).block
    if RunFolder.open(run).quantised.exists():
        print("not in INT8: only the run's own files are calibrated")
    elif block and not half:
        print(f"for its kernels: latprof kernels convert {out} --block {block} --out FILE.onnx")


def _onnx_accuracy(
    model: nn.Module,
    shape: tuple[int, int, int],
    images: Images,
    folder: Path | None,
    task: VisionTask,
) -> float:
    if folder is not None and RunFolder.open(folder).onnx.exists():
        opened = RunFolder.open(folder)
        built = library() if opened.zeros_onnx.exists() else None
        return onnx_accuracy(judged_file(opened, built), images, task=task, library=built)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "model.onnx"
        export_onnx(model, shape, path)
        return onnx_accuracy(path, images, task=task)


def _some(names: list[str], shown: int = 8) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def _shape(model: str, text: str | None) -> tuple[int, int, int]:
    known = models.input_shape(model)
    if text is None:
        if known is None:
            raise TraceError(f"--input is needed for {model}, such as --input 3x32x32")
        return known
    parts = text.lower().replace("×", "x").split("x")
    if len(parts) != 3 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise TraceError(f"--input {text!r}: expected C×H×W, such as 3x32x32")
    channels, height, width = (int(part) for part in parts)
    return channels, height, width
