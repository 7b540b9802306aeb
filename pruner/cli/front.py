"""`pruner search`, `front` and `pick`: one search for every budget, and networks picked of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from pruner import RunError
from pruner.cli.options import (
    JsonOption,
    LatenciesOption,
    SpeedupsOption,
    plain,
    require_budget,
)
from pruner.cli.progress import Stages, interruptible, progress
from pruner.run.front import fronts_in, hypervolume
from pruner.run.pick import pick as pick_of
from pruner.run.pick import search_front
from pruner.run.report.front import save_fronts
from pruner.run.settings import Settings

SHOWN = 24  # of a front's networks, spread over its latencies
METHOD = "thompson_front"  # unless told
NOT_SEARCHED = ("architecture", "confirm")  # settings without a meaning for a search alone


def search(
    out: Annotated[Path, typer.Option(help="The search's folder. An existing one is continued.")],
    json_: JsonOption = False,
    **words: Any,
) -> None:
    """Search alone: what nothing faster surpasses, for every budget down to the one asked for.

    `pruner pick` finishes networks of it.
    """
    settings = Settings.of(**plain(words))
    with interruptible(out), progress() as bar:
        found = search_front(settings, out, Stages(bar))
    if json_:
        print(json.dumps(found, indent=1))
        return
    _print({settings.method: found}, f"{settings.model} on {found['device']}")
    save_fronts({settings.method: found}, out / "front.svg")
    print(f"{out}: front.json, front.svg")
    print(f"finish networks of it with: pruner pick --front {out} --speedup SPEEDUP")


def front(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Folders of runs, of searches, or of comparisons."),
    ],
    picture: Annotated[
        Path | None, typer.Option(help="Draw the fronts into this file, .svg or .png.")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """List what searches found that nothing faster surpasses, before fine-tuning; draw it.

    Runs of one method with several budgets or seeds are one front.
    """
    if picture is not None and picture.suffix not in (".svg", ".png"):
        raise RunError(f"--picture {picture}: give a file that ends in .svg or .png")
    found = fronts_in(runs)
    if picture is not None:
        save_fronts(found, picture)
    if json_:
        told = {n: {**f, "hypervolume": hypervolume(f)} for n, f in found.items()}
        print(json.dumps(told, indent=1))
        return
    first = next(iter(found.values()))
    _print(found, f"{first['model']} on {first['device']}")
    if picture is not None:
        print(picture)


def pick(
    front: Annotated[Path, typer.Option(help="The folder of a search: its --out.")],
    speedup: SpeedupsOption = None,
    latency_ms: LatenciesOption = None,
    out: Annotated[
        Path | None,
        typer.Option(help="A folder for the finished networks. Usually picks, inside --front."),
    ] = None,
    json_: JsonOption = False,
    **words: Any,
) -> None:
    """Finish networks of a search: fine-tuned, exported, checked, timed. Nothing is searched anew.

    What is not given is as it was in the search.
    """
    require_budget(speedup, latency_ms)
    folder = out or front / "picks"
    changes = {name: value for name, value in plain(words).items() if value is not None}
    with interruptible(folder), progress() as bar:
        results = pick_of(front, speedup or [], latency_ms or [], folder, changes, Stages(bar))
    if json_:
        print(json.dumps(results, indent=1))
        return
    Console().print(_picked(results))
    print(f"{folder}: a run's folder for every network")


def _print(fronts: dict[str, dict], title: str) -> None:
    """Every front's networks, some of them where there are many, and what it dominates."""
    columns = ("predicted, ms", "speedup", "accuracy", "MACs kept", "blocks gone")
    several = ("method",) if len(fronts) > 1 else ()
    table = Table(*several, *columns, title=f"{title}, before fine-tuning")
    for name, front in fronts.items():
        points = front["points"]
        step = max(1, -(-len(points) // SHOWN))
        for point in points[::step]:
            table.add_row(
                *([name] if several else []),
                f"{point['latency_ms']:.3f}", f"{point['speedup']:.2f}×",
                f"{point['accuracy']:.2%}", f"{point['macs_kept']:.1%}",
                str(len(point["architecture"].get("removed", ()))),
            )  # fmt: skip
    Console().print(table)
    for name, front in fronts.items():
        fastest, slowest = front["points"][0]["speedup"], front["points"][-1]["speedup"]
        print(
            f"{name}: {len(front['points'])} networks from {slowest:.2f}× to {fastest:.2f}×, "
            f"hypervolume {hypervolume(front):.4f}"
        )


def _picked(results: list[dict]) -> Table:
    """What was asked of every network, and what came out."""
    first = results[0]
    metric = f"test {first.get('metric', 'accuracy')}"
    table = Table(
        "asked", "predicted", "measured", "range", f"{metric}, cut", "fine-tuned", "exported",
        title=f"{first['settings']['model']} on {first['device']['name']}, dense "
        f"{first['accuracy']['dense']:.2%}",
    )  # fmt: skip
    for result in results:
        measured, accuracy = result["measured"], result["accuracy"]
        table.add_row(
            f"{result['asked']['speedup']:.2f}×",
            f"{result['predicted']['speedup']:.2f}×",
            f"{measured['speedup']:.2f}×" if measured else "not here",
            f"{measured['speedup_low']:.2f} … {measured['speedup_high']:.2f}×" if measured else "",
            *(f"{accuracy[name]:.2%}" for name in ("pruned", "fine_tuned", "exported")),
        )
    return table
