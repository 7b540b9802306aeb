"""`pruner train`: a model from scratch, or from weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from pruner import RunError, models
from pruner.cli.options import (
    DataDirOption,
    DataOption,
    ImageSizeOption,
    ModelOption,
    NormalisationOption,
    read_data,
    task_by,
)
from pruner.cli.progress import interruptible, progress
from pruner.data import IMAGE_SIZE
from pruner.run.origin import digests
from pruner.train.accuracy import accuracy
from pruner.train.finetune import Recipe, fine_tune
from pruner.train.tasks import TASKS
from pruner.train.weights import SAFETENSORS, load_weights, made_by, save_weights


def train(
    model: ModelOption,
    data: DataOption,
    out: Annotated[Path, typer.Option(help="The safetensors file to write.")],
    data_dir: DataDirOption = None,
    normalisation: NormalisationOption = "imagenet",
    image_size: ImageSizeOption = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            help="Start from these weights. A last layer for other classes is reinitialised."
        ),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training images.")] = 30,
    batch: Annotated[int, typer.Option(min=1, help="Images per training step.")] = 128,
    rate: Annotated[
        float, typer.Option("--learning-rate", "--rate", help="Peak learning rate.")
    ] = 0.1,
    weight_decay: Annotated[
        float, typer.Option(min=0, help="Weight decay. BatchNorm and biases have none.")
    ] = 5e-4,
    patience: Annotated[
        int,
        typer.Option(
            min=0, help="Stop after this many epochs without progress on held-out images. 0: never."
        ),
    ] = 0,
    half: Annotated[bool, typer.Option("--half", help="Store the weights as fp16.")] = False,
    task: Annotated[
        str, typer.Option(help=f"What the model predicts: {', '.join(TASKS)}.")
    ] = "classification",
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
    **words: Any,
) -> None:
    """Train a model, from scratch or from weights; continues where it was interrupted."""
    if out.suffix != SAFETENSORS:
        raise RunError(f"--out {out}: weights are written as safetensors; end it in {SAFETENSORS}")
    recipe = Recipe(
        epochs=epochs, batch=batch, rate=rate, weight_decay=weight_decay,
        patience=patience, seed=seed,
    )  # fmt: skip
    made = task_by(task, words)
    of = _told(data, normalisation, image_size, task)
    begun = _begun_from(model, data, of, weights, task)
    trained = f"{begun}, {recipe.told(made)}{', fp16' if half else ''}"
    if out.exists():
        before = made_by(out)
        if before not in (None, trained):
            raise RunError(
                f"{out} comes from another training ({before}; now {trained}). Give another "
                "--out, or delete it"
            )
        print(f"{out} exists already")
        return
    images = read_data(data, data_dir, normalisation, image_size)
    torch.manual_seed(seed)
    built = models.build(model, images.classes)
    if weights is not None:
        load_weights(built, weights, but_head=True)
    made.check(built, models.shape_for(model, images.shape), images)
    out.parent.mkdir(parents=True, exist_ok=True)
    checkpoint = out.with_suffix(".checkpoint.pt")
    with interruptible(out), progress() as bar:
        shown = bar.add_task(f"training {model}", total=1, text="")
        fine_tune(
            built,
            images.train,
            recipe,
            checkpoint,
            report=lambda step, total, text: bar.update(
                shown, completed=step, total=total, text=text
            ),
            held_out=images.held_out,
            begun_from=begun,
            task=made,
        )
    save_weights(built, out, half, trained)
    checkpoint.unlink(missing_ok=True)
    score = accuracy(built, images.held_out, task=made)
    print(f"{out}: {score:.2%} on held-out training images")


def _told(data: str, normalisation: str, image_size: int | None, task: str) -> str:
    """What is learned: the data set, as it is read, and the task; usual ones left out."""
    found = _function(data)
    found += "" if normalisation == "imagenet" else f" normalised by {normalisation}"
    found += f" at {image_size}" if image_size not in (None, IMAGE_SIZE) else ""
    return found + ("" if task == "classification" else f" for {_function(task)}")


def _function(name: str) -> str:
    """A name, of a user's `file.py:function` wherever its file lies."""
    return "".join(name.rpartition(":")[1:])


def _begun_from(model: str, data: str, of: str, weights: Path | None, task: str) -> str:
    """What a training begins from: files by what they hold, wherever they lie."""
    files = digests(model, data, weights, task)
    found = [f"{name} {sha256[:12]}" for name, sha256 in files.items()]
    return f"{_function(model)} on {of}, {', '.join(found) or 'from scratch'}"
