"""Does the search's score rank candidates as fine-tuning does?

Random candidates that meet one latency budget are scored before fine-tuning in several ways and
then fine-tuned alike. `rank_correlation` is Spearman's, between score and accuracy after
fine-tuning, both on held-out training images.

    python -m benchmarks.score_rank --weights FILE --data-dir FOLDER --table FOLDER
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import typer
from scipy.stats import spearmanr

from benchmarks.results import save
from lookup_tables.network import Architecture
from pruner.accuracy import accuracy
from pruner.finetune import Recipe, fine_tune
from pruner.methods import METHODS, SearchSettings
from pruner.prune import Journey
from pruner.run_folder import Settings
from pruner.surgery import cut, keep_best

IMAGES = 1500  # as the search scores


def main(
    weights: Path,
    data_dir: Path,
    table: Path,
    model: str = "resnet20",
    speedup: float = 1.5,
    candidates: int = 16,
    epochs: int = 1,
    seed: int = 0,
    depth: bool = True,
    work: Path = Path("runs/score_rank"),
) -> None:
    settings = Settings(
        model=model, weights=str(weights), data="cifar10", data_dir=str(data_dir),
        table=str(table), speedup=speedup, depth=depth, seed=seed,
    )  # fmt: skip
    journey = Journey(settings, lambda *_: None)
    drawn = draw(journey, candidates, SearchSettings(candidates, seed, depth=depth))
    work.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, architecture in enumerate(drawn):
        asked = {"epochs": epochs, **architecture.model_dump()}
        path = work / f"{model}_{speedup:g}x_{seed}_{number}.json"
        row = json.loads(path.read_text()) if path.exists() else {}
        if row.get("asked") != json.loads(json.dumps(asked)):  # else it was interrupted later
            row = {"asked": asked, "accuracy": judge(journey, architecture, epochs)}
            path.write_text(json.dumps(row))
        rows.append(row["accuracy"])
        print(number, rows[-1], flush=True)
    tuned = [row["fine_tuned"] for row in rows]
    ways = [name for name in rows[0] if name != "fine_tuned"]
    rank = {name: float(spearmanr([row[name] for row in rows], tuned)[0]) for name in ways}
    name = f"score_rank_{model}_{speedup:g}x"
    print(save(name, {"epochs": epochs, "depth": depth, "rank_correlation": rank, "rows": rows}))


def draw(journey: Journey, count: int, settings: SearchSettings) -> list[Architecture]:
    """Random architectures within the budget."""
    found: list[Architecture] = []
    task = journey.task(lambda architecture: found.append(architecture) or 0.0)
    METHODS["random"](task, settings)
    return found[:count]


def judge(journey: Journey, architecture: Architecture, epochs: int) -> dict[str, float]:
    """Accuracy on held-out images: scored in several ways, and after fine-tuning."""
    held_out = journey.data.held_out
    kept = keep_best(journey.trace.network, architecture, journey.filter_scores)
    plain = cut(journey.trace, architecture, kept)
    without = replace_settings(journey, reconstruct=False)
    found = {
        "as_it_is": accuracy(plain, held_out, IMAGES, fast=True),
        "recalibrated": accuracy(without.cut(architecture), held_out, IMAGES, fast=True),
    }
    model = journey.cut(architecture)
    found["reconstructed"] = accuracy(model, held_out, IMAGES, fast=True)
    fine_tune(model, journey.data.train, Recipe(epochs=epochs, distill=0.5), None, journey.dense)
    return found | {"fine_tuned": accuracy(model, held_out)}


def replace_settings(journey: Journey, **changes) -> Journey:
    """The same journey, its data and traces shared, with other settings."""
    other = replace(journey, settings=journey.settings.model_copy(update=changes))
    for name in ("data", "dense", "trace", "latency", "filter_scores"):
        if name in journey.__dict__:
            other.__dict__[name] = journey.__dict__[name]
    return other


if __name__ == "__main__":
    typer.run(main)
