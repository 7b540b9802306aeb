"""Which layer criterion foretells what a layer is worth once the network has been fine-tuned?

    python -m benchmarks.layer_rank --weights FILE --data-dir FOLDER --table FOLDER \\
      [--model resnet20] [--rate 0.02] [--seed 0 …]

Every removable block of the network goes once, alone; what is left is refitted as in a search and
fine-tuned for one epoch without the held-out images. `rank_correlation` is Spearman's of each
criterion's scores with the accuracy that removing the block costs: 1 where the criterion would drop
the cheapest first. It can be interrupted: what the result file holds is not trained again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import numpy as np
import typer
from scipy.stats import spearmanr

from benchmarks.pruning import DataDir, Table, Weights, journey
from benchmarks.results import RESULTS, save
from lookup_tables.architecture import Architecture
from pruner.criteria.layers import LAYER_CRITERIA
from pruner.run.journey import Journey
from pruner.train.accuracy import accuracy
from pruner.train.finetune import fine_tune


def main(
    weights: Weights,
    data_dir: DataDir,
    table: Table,
    model: str = "resnet20",
    rate: float = 0.02,
    seed: Annotated[list[int] | None, typer.Option()] = None,
) -> None:
    run = journey(model, weights, data_dir, table, speedup=1.5, depth=True, learning_rate=rate)
    name = f"layer_rank_{model}"
    path = RESULTS / f"{name}.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    criteria = {c: run.layer_scores(c) for c in LAYER_CRITERIA}
    for number in seed or [0]:
        for block in run.trace.network.blocks:
            asked = {"block": block.name, "rate": rate, "seed": number}
            if not any(asked.items() <= row.items() for row in rows):
                rows.append(asked | without(run, block.name, number))
                print(rows[-1], flush=True)
                save(name, _content(criteria, rows))
    print(save(name, _content(criteria, rows)))


def without(run: Journey, block: str, seed: int) -> dict[str, float]:
    """Accuracy of the network without a block, before and after one epoch."""
    small = run.cut(Architecture(removed=(block,)))
    before = accuracy(small, run.data.held_out, fast=True)
    recipe = replace(run.recipe, epochs=1, seed=seed)
    fine_tune(small, run.data.train, recipe, teacher=run.dense)
    return {
        "saves": 1 - run.latency.latency_s(Architecture(removed=(block,))) / run.latency.dense_s,
        "before": before,
        "held_out": accuracy(small, run.data.held_out, fast=True),
        "test": accuracy(small, run.data.test, fast=True),
    }


def _content(criteria: dict[str, dict[str, float]], rows: Sequence[dict]) -> dict:
    blocks = [*dict.fromkeys(row["block"] for row in rows)]
    found: dict[str, float] = {}
    if len(blocks) > 2:
        left = {b: np.mean([row["held_out"] for row in rows if row["block"] == b]) for b in blocks}
        before = {b: np.mean([row["before"] for row in rows if row["block"] == b]) for b in blocks}
        every = criteria | {"accuracy_before_fine_tuning": {b: -before[b] for b in blocks}}
        for name, scores in every.items():
            rank = spearmanr([scores[b] for b in blocks], [-left[b] for b in blocks])
            found[name] = round(float(rank.statistic), 3)
    return {"rank_correlation": found, "scores": criteria, "rows": list(rows)}


if __name__ == "__main__":
    typer.run(main)
