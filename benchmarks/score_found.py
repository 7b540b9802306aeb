"""Does the score rank the networks that searches find as fine-tuning did?

The networks of a saved comparison (`benchmarks/compare.py`) are scored before fine-tuning in
several ways, on held-out training images as a search does; `rank_correlation` is Spearman's with
their test accuracy after fine-tuning by the comparison's recipe, within each budget. So no training
is needed, and the networks are those that a search has to tell apart, by all methods.

    python -m benchmarks.score_found --weights FILE --data-dir FOLDER --table FOLDER \\
      --comparison resnet56_amd_epyc_1t
"""

from __future__ import annotations

import json
from typing import Annotated

import typer
from scipy.stats import spearmanr
from torch import nn

from benchmarks.pruning import DataDir, Table, Weights, journey
from benchmarks.results import RESULTS, save
from lookup_tables.architecture import Architecture
from pruner.graph.surgery import cut, keep_best
from pruner.run.journey import Journey
from pruner.run.settings import OF_SEARCH
from pruner.search.methods import METHODS
from pruner.train.accuracy import accuracy, recalibrate, score

WAYS = ("as_it_is", "recalibrated", "channels_refitted", "blocks_taken_over", "as_searched")
IMAGES = 1500  # as the search scores
LEAST = 4  # networks of one budget; fewer have no order


def main(
    weights: Weights,
    data_dir: DataDir,
    table: Table,
    comparison: Annotated[list[str], typer.Option(help="files of results/compare, no ending")],
    model: str = "resnet56",
) -> None:
    run = journey(model, weights, data_dir, table, speedup=2, depth=True)
    rows = []
    for name in comparison:
        saved = json.loads((RESULTS / "compare" / f"{name}.json").read_text())
        epochs = saved["settings"]["epochs"]
        for row in (row for row in saved["rows"] if _belongs(row)):
            known = {"comparison": name, "epochs": epochs, "fine_tuned": row["accuracy"]}
            known |= {key: row[key] for key in ("method", "asked", "seed")}
            rows.append(known | scores(run, Architecture(**row["architecture"])))
            print(rows[-1], flush=True)
    rank = {
        f"{name}, {asked:g}x": {"networks": len(of), **{way: _rank(of, way) for way in WAYS}}
        for name, asked in sorted({(row["comparison"], row["asked"]) for row in rows})
        if len(of := [r for r in rows if (r["comparison"], r["asked"]) == (name, asked)]) >= LEAST
    }
    print(save(f"score_found_{model}", {"rank_correlation": rank, "rows": rows}))


def scores(run: Journey, architecture: Architecture) -> dict[str, float]:
    """Held-out accuracy before fine-tuning, by what was done to the cut network."""
    kept = keep_best(run.trace.network, architecture, run.channel_importance)
    channels = run.reconstruction.refit(kept)
    blocks = run.reconstruction.refit(kept, architecture.removed)
    plain, refitted, taken_over = (
        cut(traced, architecture, kept) for traced in (run.trace, channels, blocks)
    )
    found = (
        accuracy(plain, run.judged_by, IMAGES, fast=True),
        *(recalibrated(run, model) for model in (plain, refitted, taken_over)),
        score(taken_over, run.judged_by, IMAGES),
    )
    return dict(zip(WAYS, found, strict=True))


def recalibrated(run: Journey, model: nn.Module) -> float:
    """Accuracy after BatchNorm was measured anew on training images."""
    recalibrate(model, run.recalibrated_by, run.settings.recalibration_images, fast=True)
    return accuracy(model, run.judged_by, IMAGES, fast=True)


def _belongs(row: dict) -> bool:
    """Whether a network was found, and trained by the comparison's recipe."""
    _, _, changes = row["method"].partition(":")
    names = {change.partition("=")[0] for change in changes.split(",") if change}
    own = {name for method in METHODS.values() for name in method.settings.model_fields}
    return "architecture" in row and names <= {*OF_SEARCH} | own


def _rank(rows: list[dict], way: str) -> float:
    return float(spearmanr([row[way] for row in rows], [row["fine_tuned"] for row in rows])[0])


if __name__ == "__main__":
    typer.run(main)
