"""Which filters should stay: every criterion on the same architecture, trained alike.

The architecture is the knapsack's within the budget. For every criterion and seed the masked
network is trained for the same steps: the criterion's filters stay throughout, or dynamic selection
chooses meanwhile. Then it is cut and fine-tuned. Accuracies are on held-out training images.

    python -m benchmarks.filter_selection --weights FILE --data-dir FOLDER --table FOLDER
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import typer

from benchmarks.results import save
from lookup_tables.network import Architecture
from pruner.accuracy import accuracy, recalibrate
from pruner.filters import RANKINGS
from pruner.filters.dynamic import Phase, select
from pruner.finetune import Recipe, fine_tune
from pruner.methods import METHODS, SearchSettings
from pruner.prune import Journey
from pruner.run_folder import Settings
from pruner.surgery import cut

DYNAMIC = {"dynamic": Phase(), "dynamic, nothing regenerated": Phase(regenerated=0.0)}
WAYS = (*RANKINGS, *DYNAMIC)


def main(
    weights: Path,
    data_dir: Path,
    table: Path,
    model: str = "resnet20",
    speedup: float = 1.5,
    seeds: int = 3,
    epochs: int = 1,
    work: Path = Path("runs/filter_selection"),
) -> None:
    settings = Settings(
        model=model, weights=str(weights), data="cifar10", data_dir=str(data_dir),
        table=str(table), speedup=speedup,
    )  # fmt: skip
    work.mkdir(parents=True, exist_ok=True)
    journey = Journey(settings, lambda *_: None)
    architecture = knapsacks(journey)
    rows = []
    for seed in range(seeds):
        for number, way in enumerate(WAYS):
            asked = {"way": way, "seed": seed, "epochs": epochs, **architecture.model_dump()}
            path = work / f"{model}_{speedup:g}x_{number}_{seed}.json"
            row = json.loads(path.read_text()) if path.exists() else {}
            if row.get("asked") != json.loads(json.dumps(asked)):  # else it was interrupted later
                row = {"asked": asked} | judge(journey, architecture, way, seed, epochs)
                path.write_text(json.dumps(row))
            rows.append({"way": way, "seed": seed, **row})
            rows[-1].pop("asked")
            print(rows[-1], flush=True)
    summary = {way: _summary([row for row in rows if row["way"] == way]) for way in WAYS}
    name = f"filter_selection_{model}_{speedup:g}x"
    content = {"epochs": epochs, "architecture": architecture.model_dump(), "rows": rows}
    print(save(name, content | {"summary": summary}))


def knapsacks(journey: Journey) -> Architecture:
    found: list[Architecture] = []
    task = journey.task(lambda architecture: found.append(architecture) or 0.0)
    METHODS["knapsack"](task, SearchSettings())
    return found[-1]


def judge(
    journey: Journey, architecture: Architecture, way: str, seed: int, epochs: int
) -> dict[str, float]:
    """Accuracy after training masked, and after fine-tuning."""
    train, held_out = journey.data.train, journey.data.held_out
    first = RANKINGS[way](journey.trace, train) if way in RANKINGS else None
    phase = DYNAMIC.get(way, Phase(ranked=False))
    traced, kept = select(journey.trace, architecture, train, phase, seed, first=first)
    model = cut(traced, architecture, kept)
    recalibrate(model, train, journey.settings.recalibration_images, fast=True)
    selected = accuracy(model, held_out)
    recipe = Recipe(epochs=epochs, distill=journey.settings.distill, seed=seed)
    fine_tune(model, train, recipe, None, journey.dense)
    return {"selected": selected, "fine_tuned": accuracy(model, held_out)}


def _summary(rows: list[dict]) -> dict[str, float]:
    tuned = [row["fine_tuned"] for row in rows]
    return {"mean": float(np.mean(tuned)), "lowest": min(tuned), "highest": max(tuned)}


if __name__ == "__main__":
    typer.run(main)
