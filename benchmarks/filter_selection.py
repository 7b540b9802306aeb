"""Which filters should stay: every criterion on the same architecture, trained alike.

The architecture is the knapsack's within the budget. For every criterion and seed the masked
network is trained for the same steps: the criterion's filters stay throughout, or dynamic selection
chooses meanwhile. Then it is cut and fine-tuned. Accuracies are on the test set: the published
weights were trained on the held-out images, so those would flatter what changes weights least.

    python -m benchmarks.filter_selection --weights FILE --data-dir FOLDER --table FOLDER
"""

from __future__ import annotations

from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import typer

from benchmarks.pruning import DataDir, Table, Weights, journey, kept_row, problem, proposals
from benchmarks.results import save
from lookup_tables.architecture import Architecture
from pruner.criteria import CRITERIA
from pruner.criteria.dynamic import Phase, select
from pruner.graph.surgery import cut, keep_best
from pruner.run.journey import Journey
from pruner.train.accuracy import accuracy, recalibrate
from pruner.train.finetune import Recipe, fine_tune

DYNAMIC = {"dynamic": Phase(), "dynamic, nothing regenerated": Phase(regenerated=0.0)}
RANKED = [name for name, criterion in CRITERIA.items() if criterion.select is None]
WAYS = (*RANKED, *DYNAMIC)


def main(
    weights: Weights,
    data_dir: DataDir,
    table: Table,
    model: str = "resnet20",
    speedup: float = 1.5,
    seeds: int = 3,
    epochs: int = 1,
    work: Path = Path("runs/filter_selection"),
) -> None:
    run = journey(model, weights, data_dir, table, speedup=speedup)
    (architecture,) = proposals(run, method="knapsack")
    rows, of = [], problem(run.settings)
    for seed, (number, way) in product(range(seeds), enumerate(WAYS)):
        asked = {"way": way, "seed": seed, "epochs": epochs, **architecture.model_dump(), **of}
        path = work / f"{model}_{speedup:g}x_{number}_{seed}.json"
        row = kept_row(path, asked, partial(judge, run, architecture, way, seed, epochs))
        rows.append({"way": way, "seed": seed, **row})
        print(rows[-1], flush=True)
    summary = {way: _summary([row for row in rows if row["way"] == way]) for way in WAYS}
    name = f"filter_selection_{model}_{speedup:g}x"
    content = {"epochs": epochs, "architecture": architecture.model_dump(), "rows": rows}
    print(save(name, content | {"summary": summary}))


def judge(
    run: Journey, architecture: Architecture, way: str, seed: int, epochs: int
) -> dict[str, float]:
    """Accuracy after training masked, and after fine-tuning."""
    train, test = run.data.train, run.data.test
    fixed = None
    if way in RANKED:
        ranked = CRITERIA[way].rank(run.trace, train, run.task)
        fixed = keep_best(run.trace.network, architecture, ranked)
    phase = DYNAMIC.get(way, Phase())
    traced, kept = select(run.trace, architecture, train, phase, seed, fixed=fixed)
    model = cut(traced, architecture, kept)
    recalibrate(model, train, run.settings.recalibration_images, fast=True)
    selected = accuracy(model, test)
    recipe = Recipe(epochs=epochs, distill=run.settings.distill, seed=seed)
    fine_tune(model, train, recipe, None, run.dense)
    return {"selected": selected, "fine_tuned": accuracy(model, test)}


def _summary(rows: list[dict]) -> dict[str, float]:
    tuned = [row["fine_tuned"] for row in rows]
    return {"mean": float(np.mean(tuned)), "lowest": min(tuned), "highest": max(tuned)}


if __name__ == "__main__":
    typer.run(main)
