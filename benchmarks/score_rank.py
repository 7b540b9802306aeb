"""Does the search's score rank candidates as fine-tuning does?

Random candidates that meet one latency budget are scored before fine-tuning in several ways, on
held-out training images as a search does, and then fine-tuned alike. `rank_correlation` is
Spearman's, between score and accuracy on the test set after fine-tuning: the published weights were
trained on the held-out images, so those would flatter the scores.

    python -m benchmarks.score_rank --weights FILE --data-dir FOLDER --table FOLDER
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import typer
from scipy.stats import spearmanr

from benchmarks.pruning import DataDir, Table, Weights, journey, kept_row, problem, proposals
from benchmarks.results import save
from lookup_tables.architecture import Architecture
from pruner.graph.surgery import cut, keep_best
from pruner.run.journey import Journey
from pruner.train.accuracy import accuracy
from pruner.train.finetune import Recipe, fine_tune

IMAGES = 1500  # as the search scores


def main(
    weights: Weights,
    data_dir: DataDir,
    table: Table,
    model: str = "resnet20",
    speedup: float = 1.5,
    candidates: int = 16,
    epochs: int = 1,
    seed: int = 0,
    depth: bool = True,
    work: Path = Path("runs/score_rank"),
) -> None:
    run = journey(model, weights, data_dir, table, speedup=speedup, depth=depth, seed=seed)
    drawn = proposals(run, method="random", episodes=candidates, seed=seed, depth=depth)
    rows, of = [], problem(run.settings)
    for number, architecture in enumerate(drawn):
        path = work / f"{model}_{speedup:g}x_{depth}_{seed}_{number}.json"
        asked = {"epochs": epochs, **architecture.model_dump(), **of}
        rows.append(kept_row(path, asked, partial(judge, run, architecture, epochs)))
        print(number, rows[-1], flush=True)
    tuned = [row["fine_tuned"] for row in rows]
    ways = [name for name in rows[0] if name != "fine_tuned"]
    rank = {name: float(spearmanr([row[name] for row in rows], tuned)[0]) for name in ways}
    name = f"score_rank_{model}_{'depth' if depth else 'widths'}_{speedup:g}x"
    print(save(name, {"epochs": epochs, "depth": depth, "rank_correlation": rank, "rows": rows}))


def judge(run: Journey, architecture: Architecture, epochs: int) -> dict[str, float]:
    """Held-out accuracy, scored in several ways, and test accuracy after fine-tuning."""
    held_out = run.data.held_out
    kept = keep_best(run.trace.network, architecture, run.channel_importance)
    plain = cut(run.trace, architecture, kept)
    without = replace_settings(run, reconstruct=False)
    found = {
        "as_it_is": accuracy(plain, held_out, IMAGES, fast=True),
        "recalibrated": accuracy(without.cut(architecture), held_out, IMAGES, fast=True),
    }
    model = run.cut(architecture)
    found["reconstructed"] = accuracy(model, held_out, IMAGES, fast=True)
    found["as_searched"] = run.score(architecture, IMAGES)
    fine_tune(model, run.data.train, Recipe(epochs=epochs, distill=0.5), None, run.dense)
    return found | {"fine_tuned": accuracy(model, run.data.test)}


def replace_settings(run: Journey, **changes) -> Journey:
    """The same run, its data and traces shared, with other settings."""
    other = replace(run, settings=run.settings.model_copy(update=changes))
    for name in ("data", "dense", "trace", "latency", "channel_importance"):
        if name in run.__dict__:
            other.__dict__[name] = run.__dict__[name]
    return other


if __name__ == "__main__":
    typer.run(main)
