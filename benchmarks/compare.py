"""One network by several methods within the same budgets, by the same recipe: accuracy on the test
set beside measured speedup.

The runs are those of `pruner compare`, with 30 epochs by default: it continues where it was
interrupted, and grows by methods, budgets and seeds. Nothing else may run when one of them is
timed at its end.

    python -m benchmarks.compare --weights FILE --data-dir FOLDER --table FOLDER --speedup 2 \\
      --method thompson --depth

With `--question depth` the methods are those that answer it, and the result lies in `depth/`.

Networks trained by `pruner train` never saw the held-out images; with `--unseen` the pruned ones do
not learn from them either, so that none gains from more images: they only tell which epoch was the
best. (Published weights were trained on all.)

The result keeps the rows of earlier calls with the same settings, whatever folder they ran in.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.pruning import DataDir, Table, Weights, problem, settings
from benchmarks.results import RESULTS, save
from pruner.run.compare import Member, compare_methods, differing, plan, summary
from pruner.run.former import comparison_of_today
from pruner.run.question import CRITERION, answers, methods_of
from pruner.run.settings import Settings

LOCAL = ("folder", "source")  # true of this machine only


def main(
    weights: Weights,
    data_dir: DataDir,
    table: Table,
    speedup: Annotated[list[float], typer.Option()],
    method: Annotated[list[str] | None, typer.Option()] = None,
    question: Annotated[str | None, typer.Option(help="of `pruner compare`: depth")] = None,
    layer_criterion: str = CRITERION,
    seed: Annotated[list[int] | None, typer.Option()] = None,
    member: Annotated[list[str] | None, typer.Option()] = None,
    model: str = "resnet56",
    depth: bool = False,
    episodes: int = 300,
    epochs: int = 30,
    rate: float = Settings.model_fields["learning_rate"].default,
    batch: int = Settings.model_fields["batch"].default,
    data: str = "cifar10",
    task: str = "classification",
    anchors: Annotated[str | None, typer.Option(help="of a detector")] = None,
    image_size: Annotated[int | None, typer.Option(help="of a detector's images")] = None,
    unseen: Annotated[bool, typer.Option(help="fine-tune without the held-out images")] = False,
    out: Path = Path("runs/compare"),
) -> None:
    base = settings(
        model, weights, data_dir, table, speedup=speedup[0], depth=depth, episodes=episodes,
        epochs=epochs, learning_rate=rate, patience=epochs if unseen else 0, batch=batch,
        data=data, task=task, anchors=anchors, image_size=image_size,
    )  # fmt: skip
    asks = (question, layer_criterion) if question else None
    methods = [*(methods_of(*asks) if asks else ()), *(method or ())]
    name = f"{question or 'compare'}/{model}_{table.name}"
    path = RESULTS / f"{name}.json"
    before = comparison_of_today(json.loads(path.read_text())) if path.exists() else {}
    of = problem(base)
    other = differing(before["settings"], plan(base)) if before else []
    known = before.get("problem", of)  # earlier results do not say
    other += [what for what in of if known[what] != of[what]]
    if other:
        raise typer.BadParameter(f"{path} is of another comparison (other {', '.join(other)})")
    members = [Member.parse(text) for text in member or []]
    found = compare_methods(base, methods, speedup, seed or [0], members, out, _say, (), asks)
    for row in found["rows"]:
        architecture = out / row.get("folder", "") / "architecture.json"
        if architecture.exists():
            row["architecture"] = json.loads(architecture.read_text())
    print(save(name, {"problem": of} | joined(before, _without_local(found))))


def joined(before: dict, found: dict) -> dict:
    """A comparison with the rows of an earlier one that it did not make again."""
    rows = {
        (row["method"], row["asked"], row["seed"]): row
        for row in [*before.get("rows", []), *found["rows"]]
    }
    told = summary(list(rows.values()))
    if "question" in found:
        asks = found["question"]["asks"], found["question"]["criterion"]
        answered = [{"asked": a.asked, "told": a.told} for a in answers(told, *asks)]
        found |= {"question": found["question"] | {"answers": answered}}
    return found | {"rows": list(rows.values()), "summary": told}


def _say(step: str, done: int, total: int, text: str) -> None:
    if step == "compare" or done % 100 == 0:
        print(f"{step} {done}/{total} {text}", flush=True)


def _without_local(found: dict) -> dict:
    rows = [{k: v for k, v in row.items() if k not in LOCAL} for row in found["rows"]]
    return found | {"rows": rows}


if __name__ == "__main__":
    typer.run(main)
