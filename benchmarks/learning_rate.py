"""Which highest learning rate fine-tunes best, in a training as short as users afford.

The architecture is the knapsack's within the budget, cut and reconstructed as always; only the rate
differs. Accuracies are on held-out training images, which published weights have seen and which
therefore flatter low rates (`docs/decisions/fine-tuning.md`), and on the test set.

    python -m benchmarks.learning_rate --weights FILE --data-dir FOLDER --table FOLDER
"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.pruning import DataDir, Table, Weights, journey, kept_row, proposals
from benchmarks.results import save
from lookup_tables.network import Architecture
from pruner.accuracy import accuracy
from pruner.finetune import Recipe, fine_tune
from pruner.methods import SearchSettings
from pruner.prune import Journey


def main(
    weights: Weights,
    data_dir: DataDir,
    table: Table,
    model: str = "resnet20",
    speedup: float = 1.5,
    rate: Annotated[list[float] | None, typer.Option()] = None,
    seeds: int = 1,
    epochs: int = 10,
    work: Path = Path("runs/learning_rate"),
) -> None:
    run = journey(model, weights, data_dir, table, speedup=speedup)
    (architecture,) = proposals(run, "knapsack", SearchSettings())
    rows = []
    for seed, peak in product(range(seeds), rate or [0.05, 0.02, 0.01]):
        recipe = Recipe(epochs=epochs, rate=peak, distill=run.settings.distill, seed=seed)
        path = work / f"{model}_{speedup:g}x_{peak:g}_{seed}.json"
        asked = {"recipe": str(recipe), **architecture.model_dump()}
        row = kept_row(path, asked, partial(judge, run, architecture, recipe))
        rows.append({"rate": peak, "seed": seed, **row})
        print(peak, seed, {name: row[name] for name in ("cut", "fine_tuned", "test")}, flush=True)
    content = {"epochs": epochs, "architecture": architecture.model_dump(), "rows": rows}
    print(save(f"learning_rate_{model}_{speedup:g}x", content))


def judge(run: Journey, architecture: Architecture, recipe: Recipe) -> dict:
    """Accuracy before and after fine-tuning, and what every epoch saw."""
    model = run.cut(architecture)
    cut = accuracy(model, run.data.held_out)
    epochs = fine_tune(
        model, run.data.train, recipe, None, run.dense,
        lambda step, total, text: print(text, flush=True) if step % 100 == 0 else None,
    )  # fmt: skip
    return {
        "cut": cut,
        "fine_tuned": accuracy(model, run.data.held_out),
        "test": accuracy(model, run.data.test),
        "training": [asdict(epoch) for epoch in epochs],
    }


if __name__ == "__main__":
    typer.run(main)
