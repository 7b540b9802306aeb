"""What a pattern of zeros, a criterion and a schedule are worth: accuracy after a short training.

    python -m benchmarks.sparse_training --weights FILE --data-dir FOLDER [--model resnet56] \\
      [--block 16 …] [--inputs 1 …] [--mask second_order …] [--schedule one_shot …] \\
      [--density 0.3 …] [--rate 0.05 …] [--epochs 2] [--again]

One density in all layers that may be sparse, all combinations of what is given; blocks of 1 are
unstructured masks, and `--inputs 4` gives the blocks of INT8. Trained without the held-out images
and judged by them; the test set's accuracy stands beside. (Published weights were trained on the
held-out images too.) It can be interrupted: what the result file holds is not trained again, and a
training goes on from its checkpoint.
"""

from __future__ import annotations

import copy
import json
from itertools import product
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.pruning import DataDir, Weights
from benchmarks.results import RESULTS, save
from lookup_tables.architecture import Architecture
from pruner.graph.masks import Thinning, masks_of
from pruner.graph.surgery import cut, keep_best
from pruner.run.journey import Journey
from pruner.run.settings import Settings
from pruner.train.accuracy import accuracy, recalibrate
from pruner.train.finetune import Recipe, fine_tune
from pruner.train.sparsity import SCHEDULES, BlockShape, Held, Sparsity

RESULT = "sparse_training"
PLACE = Path("runs/sparse_training")


def main(
    weights: Weights,
    data_dir: DataDir,
    model: str = "resnet56",
    block: Annotated[list[int] | None, typer.Option()] = None,
    inputs: Annotated[list[int] | None, typer.Option()] = None,
    mask: Annotated[list[str] | None, typer.Option()] = None,
    schedule: Annotated[list[str] | None, typer.Option()] = None,
    density: Annotated[list[float] | None, typer.Option()] = None,
    rate: Annotated[list[float] | None, typer.Option()] = None,
    epochs: int = 2,
    seed: int = 0,
    again: bool = False,
) -> None:
    path = RESULTS / f"{RESULT}.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    PLACE.mkdir(parents=True, exist_ok=True)
    for values in product(
        density or [0.3],
        schedule or ["one_shot"],
        mask or ["second_order"],
        block or [16],
        inputs or [1],
        rate or [0.05],
    ):
        names = ("density", "schedule", "mask", "block", "inputs", "rate")
        asked = dict(zip(names, values, strict=True))
        asked = {"model": model, **asked, "epochs": epochs, "seed": seed}
        known = [row for row in rows if asked.items() <= row.items()]
        if known and not again:
            continue
        rows = [row for row in rows if row not in known]
        rows.append(asked | trained(asked, weights, data_dir))
        print(json.dumps(rows[-1]), flush=True)
        save(RESULT, {"rows": rows})
    print(path)


def trained(asked: dict, weights: Path, data_dir: Path) -> dict[str, float]:
    """Shares of right answers before and after the training."""
    settings = Settings(
        model=asked["model"], weights=str(weights), data="cifar10", data_dir=str(data_dir),
        table="", speedup=1, mask=asked["mask"], seed=asked["seed"],
    )  # fmt: skip
    journey = Journey(settings, lambda *_: None)
    network, block = journey.trace.network, BlockShape(asked["block"], asked["inputs"])
    density = dict.fromkeys(network.sparse_layers, asked["density"])
    whole_widths = keep_best(network, network.dense, journey.channel_importance)
    thinning = Thinning(density, block, journey.judge)
    refitted = journey.reconstruction.refit(whole_widths, (), thinning)
    architecture = Architecture(density=density)
    found = cut(refitted, architecture, whole_widths)
    recalibrate(found, journey.recalibrated_by, settings.recalibration_images, fast=True)
    before = accuracy(found, journey.judged_by)
    sparsity: Sparsity
    if asked["schedule"] == "one_shot":
        sparsity = Held(masks_of(found, architecture, block))
    else:
        found = copy.deepcopy(journey.dense)
        sparsity = SCHEDULES[asked["schedule"]](density, block)
    recipe = Recipe(
        asked["epochs"], rate=asked["rate"], distill=settings.distill, seed=asked["seed"]
    )
    checkpoint = PLACE / f"{'_'.join(map(str, asked.values()))}.pt"
    train, teacher = journey.data.train, journey.dense
    fine_tune(found, train, recipe, checkpoint, teacher, _say, sparsity=sparsity)
    checkpoint.unlink(missing_ok=True)
    kept = sum(int((p != 0).sum()) for n, p in found.named_parameters() if _of(n) in density)
    full = sum(p.numel() for n, p in found.named_parameters() if _of(n) in density)
    return {
        "kept": kept / full,
        "before": before,
        "held_out": accuracy(found, journey.data.held_out),
        "test": accuracy(found, journey.data.test),
    }


def _of(parameter: str) -> str:
    return parameter.removesuffix(".weight")


def _say(step: int, total: int, text: str) -> None:
    if step % 100 == 0:
        print(f"{step}/{total} {text}", flush=True)


if __name__ == "__main__":
    typer.run(main)
