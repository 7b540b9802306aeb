"""`pruner prune`, `compare` and `recommend`: runs, one or many side by side."""

from __future__ import annotations

import json
import sys
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
from pruner.run.compare import Member, compare_methods
from pruner.run.prune import prune as run_prune
from pruner.run.question import CRITERION, methods_of
from pruner.run.recommend import recommend as try_all
from pruner.run.report.comparison import asked
from pruner.run.report.recommendation import HEADING, recommendation_rows
from pruner.run.report.result import result_rows
from pruner.run.settings import Settings
from pruner.search.methods import METHODS

# Of a comparison: it has several of each.
NOT_RECOMMENDED_BY = (  # what `recommend` decides for itself, or has several of
    "speedup", "latency_ms", "table", "epochs", "widths", "density", "architecture", "patience",
    "schedule",
)  # fmt: skip
FOR_ONE_BUDGET = [name for name, each in METHODS.items() if not each.gives_front]
SEVERAL = ("speedup", "latency_ms", "method", "seed", "architecture")


def prune(
    out: Annotated[Path, typer.Option(help="The run's folder. An existing one is continued.")],
    json_: JsonOption = False,
    **words: Any,
) -> None:
    """Search, cut, fine-tune, export and check a smaller network within a latency budget."""
    settings = Settings.of(**plain(words))
    if settings.depth and not settings.removes_blocks:
        raise RunError(f"--depth: {settings.method} never removes a block; leave it out")
    with interruptible(out), progress() as bar:
        result = run_prune(settings, out, Stages(bar))
    _print_result(result, out, json_)


def compare(
    out: Annotated[
        Path, typer.Option(help="The comparison's folder. An existing one is continued.")
    ],
    speedup: SpeedupsOption = None,
    latency_ms: LatenciesOption = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="Search method. Repeatable; default: all but those that search all budgets at "
            "once. A method's own settings follow a colon, as in rl:agent=td3,reward=error."
        ),
    ] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Seed. Repeatable.")] = None,
    member: Annotated[
        list[str] | None,
        typer.Option(
            help="A smaller network of the family: NAME=WEIGHTS, or NAME=ACCURACY for a published "
            "one. NAME may be a FILE.py:FUNCTION."
        ),
    ] = None,
    question: Annotated[
        str | None,
        typer.Option(
            help="Instead of --method: `depth` asks whether to drop layers or to thin them, by "
            "one criterion, and answers for every budget."
        ),
    ] = None,
    layer_criterion: Annotated[
        str | None,
        typer.Option(
            help="For --question depth: by what layers and filters are ranked. Usually "
            f"{CRITERION}."
        ),
    ] = None,
    json_: JsonOption = False,
    **words: Any,
) -> None:
    """Prune by several methods within the same budgets; a table and a picture show all of them."""
    asks = _question(question, layer_criterion)
    if asks:
        method = [*methods_of(*asks), *(method or [])]
    require_budget(speedup, latency_ms)
    first = {
        "speedup": speedup[0] if speedup else None,
        "latency_ms": latency_ms[0] if latency_ms and not speedup else None,
    }
    base = Settings.of(**plain(words), **first)
    members = [Member.parse(text) for text in member or []]
    with interruptible(out), progress() as bar:
        found = compare_methods(
            base, method or FOR_ONE_BUDGET, speedup or [], seed or [0], members, out, Stages(bar),
            latency_ms or [], asks,
        )  # fmt: skip
    for row in found["rows"]:
        if "refused" in row:
            print(f"{row['method']} at {asked(row)}: {row['refused']}", file=sys.stderr)
    made = [row for row in found["rows"] if "dense_accuracy" in row]
    if not made:
        raise RunError("no method met any of the budgets")
    if json_:
        print(json.dumps(found, indent=1))
        return
    _print_comparison(found["summary"], made[0]["dense_accuracy"])
    for answer in found.get("question", {}).get("answers", ()):
        print(f"{asked(answer)}: {answer['told']}")


def _question(question: str | None, criterion: str | None) -> tuple[str, str] | None:
    """The question and its criterion; None where none is asked."""
    if question is None:
        if criterion is not None:
            raise RunError("--layer-criterion has no effect without --question depth")
        return None
    return question, criterion or CRITERION


def recommend(
    out: Annotated[Path, typer.Option(help="A folder for all runs. An existing one is continued.")],
    table: Annotated[
        list[Path],
        typer.Option(
            help="A latency table's folder. Repeatable: in fp32 for pruning, in int8 for "
            "quantising, of --kernels block_sparse for leaving out weights. All of one machine."
        ),
    ],
    speedup: Annotated[
        list[float] | None,
        typer.Option(
            help="Latency budget as a speedup over the dense network in fp32. Repeatable."
        ),
    ] = None,
    latency_ms: LatenciesOption = None,
    epochs: Annotated[
        int, typer.Option(min=0, help="Epochs of fine-tuning for every way that is tried.")
    ] = 2,
    json_: JsonOption = False,
    **words: Any,
) -> None:
    """Prune, quantise, leave out weights, or several: which keeps the most accuracy in a budget?"""
    require_budget(speedup, latency_ms)
    first = {"table": str(table[0]), "epochs": epochs, "speedup": 1.0}
    base = Settings.of(**plain(words), **first)
    with interruptible(out), progress() as bar:
        found = try_all(base, [str(t) for t in table], speedup or [], latency_ms or [], out,
                        Stages(bar))  # fmt: skip
    if json_:
        print(json.dumps(found, indent=1))
        return
    shown = Table(*HEADING, title=f"{base.model}, judged by held-out images")
    for cells in recommendation_rows(found):
        shown.add_row(*cells)
    Console().print(shown)
    for row in found["rows"]:
        if row["recommended"] and row["budget_ms"]:
            found_in = out / row["folder"] / "architecture.json"
            print(f"* within {row['budget_ms']:.3g} ms: {row['way']}")
            print(
                f"  to train it for longer: pruner prune --architecture {found_in} "
                f"--table {row['table']} --out NEW_FOLDER"
            )
    print(f"{out}: recommend.json, recommend.svg, report.html, and a run's folder for every way")


def _print_result(result: dict, out: Path, json_: bool) -> None:
    if json_:
        print(json.dumps(result, indent=1))
        return
    settings = result["settings"]
    heading, rows = result_rows(result)
    how = "a given architecture" if settings.get("architecture") else settings["method"]
    title = f"{settings['model']} on {result['device']['name']}, {how}"
    table = Table(*heading, title=title)
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    print(_time_bought(result["bought"]))
    if off := _off_prediction(result):
        print(off)
    if result.get("stands_in"):
        print(
            f"predicted for {result['priced_by']}, the same network with more classes; this one "
            "takes no longer"
        )
    if result.get("table_error", {}) is None:  # unknown of earlier versions' results
        print(
            f"{settings['table']}: its profile is not finished, so the prediction's error is "
            "unknown"
        )
    if result["measured"] is None:
        print(f"not measured: {result['not_measured_because']}")
        print(
            f"measure it on the device: latprof compare {out}/dense.onnx {out}/model.onnx --table "
            "TABLE"
        )
    print(f"{out}: model.onnx, model.safetensors, architecture.json, result.json, report.html")
    if (out / "model_dense.onnx").exists():
        print(
            "model.onnx needs the block-sparse kernels (latprof kernels build --out FILE.so); "
            "model_dense.onnx is the same network of plain ONNX, with its zeros"
        )


def _off_prediction(result: dict) -> str:
    """A measurement outside of the predicted interval, in words; empty for one inside, or none."""
    predicted, measured = result["predicted"], result["measured"]
    if measured is None:
        return ""
    share = measured["latency_ms"] / measured["dense_ms"]
    low, high = (predicted[end] / predicted["dense_ms"] for end in ("low_ms", "high_ms"))
    if low <= share <= high:
        return ""
    off = share / (predicted["latency_ms"] / predicted["dense_ms"]) - 1
    return (
        f"measured {abs(off):.0%} {'slower' if off > 0 else 'faster'} than predicted, outside the "
        "prediction's interval. Is the table still right here? Ask: latprof validate"
    )


def _time_bought(layers: list[dict], shown: int = 4) -> str:
    """The layers that saved most, with their shares of what was saved; and what was lost again."""
    saved = {row["layer"]: row["dense_ms"] - row["pruned_ms"] for row in layers}
    total = sum(saved.values())
    parts = [f"{name} {ms / total:.0%}" for name, ms in list(saved.items())[:shown]]
    slower = sum(row["pruned_ms"] > 1.05 * row["dense_ms"] for row in layers)
    end = f"; {slower} layers are slower than before" if slower else ""
    return f"time saved, by layer: {', '.join(parts)}{end}"


def _print_comparison(summary: list[dict], dense_accuracy: float) -> None:
    shown = Table("asked", "method", "seeds", "predicted", "measured", "test accuracy", "lost")
    for entry in summary:
        spread = f"{entry['accuracy_low']:.2%} … {entry['accuracy_high']:.2%}"
        shown.add_row(
            asked(entry),
            entry["method"],
            str(entry["seeds"]),
            f"{entry['predicted']:.2f}×" if entry["predicted"] else "",
            f"{entry['measured']:.2f}×" if entry["measured"] else "not here",
            f"{entry['accuracy']:.2%}" + (f" ({spread})" if entry["seeds"] > 1 else ""),
            f"{100 * (dense_accuracy - entry['accuracy']):.2f}",
        )
    Console().print(shown)
