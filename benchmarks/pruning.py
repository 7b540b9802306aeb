"""What the benchmarks of the pruner share: their options, their journey, rows that are kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from lookup_tables.architecture import Architecture
from lookup_tables.storage.files import write_whole
from pruner import models
from pruner.run.journey import Journey
from pruner.run.origin import digest
from pruner.run.settings import Settings
from pruner.search.searcher import Scored, Searcher

Weights = Annotated[Path, typer.Option(help="of the dense network")]
DataDir = Annotated[Path, typer.Option(help="the folder that holds the data set")]
Table = Annotated[Path, typer.Option(help="this machine's table")]


def settings(model: str, weights: Path, data_dir: Path, table: Path, **others) -> Settings:
    """Those of a pruning run, on CIFAR-10 unless told otherwise."""
    told = {"data": "cifar10"} | others
    return Settings.of(
        model=model, weights=str(weights), data_dir=str(data_dir), table=str(table), **told
    )


def journey(model: str, weights: Path, data_dir: Path, table: Path, **others) -> Journey:
    """The journey of a pruning run on CIFAR-10."""
    return Journey(settings(model, weights, data_dir, table, **others), lambda *_: None)


def problem(base: Settings) -> dict[str, str]:
    """What results follow from beside their options: the table's rows and the dense weights."""
    run = Journey(base, lambda *_: None)
    name = run.priced.name if base.weights else models.short_name(base.model)
    return {
        "device": run.table.device.name,
        "rows_sha256": run.table.digest(name),
        **({"weights_sha256": digest(base.weights)} if base.weights else {}),
    }


def proposals(run: Journey, **changes) -> list[Architecture]:
    """What a method proposes that asks for no accuracy; `changes`: settings, its name too."""
    run = Journey(run.settings.varied(**changes), run.report)
    method = run.settings.searched_by
    searcher = Searcher(method.make(run.problem(), run.settings.own("method")))
    found: list[Architecture] = []
    while batch := searcher.ask():
        found += batch
        searcher.tell(Scored(each, 0.0, 0.0) for each in batch)
    return found


def kept_row(path: Path, asked: dict, make: Callable[[], dict]) -> dict:
    """A row made for what was asked; read from `path` where an interrupted run left it."""
    asked = json.loads(json.dumps(asked))
    row = json.loads(path.read_text()) if path.exists() else {}
    if row.get("asked") != asked or "found" not in row:
        row = {"asked": asked, "found": make()}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(row))
    return row["found"]
