"""Recommend: of everything that makes a network faster, what keeps the most accuracy in a budget?

Tables say what can be done: one in FP32 is for pruning, one in INT8 for quantising, one of sparse
kernels for leaving out weights. Every way is a run of its own in a folder of its own, trained
briefly on the training images without the held-out ones, by which the ways are judged. A call that
was interrupted continues with the same command.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lookup_tables.device import Device
from lookup_tables.errors import BudgetError
from lookup_tables.model.latency_model import LatencyModel
from lookup_tables.storage.files import only_writer
from lookup_tables.table.store import LatencyTable
from pruner import RunError, SearchError
from pruner.run.compare import Report
from pruner.run.folder import RunFolder, read_json, write_json
from pruner.run.journey import Journey
from pruner.run.kernels import judged_file
from pruner.run.measured import NotTimed, measure_pair
from pruner.run.origin import files_read
from pruner.run.prune import prune
from pruner.run.quantised import quantise
from pruner.run.report.recommendation import write_recommendation
from pruner.run.settings import OF_INT8, Settings, usual
from pruner.train.accuracy import accuracy, onnx_accuracy
from pruner.train.export import export_onnx

DENSE = "as it is"


@dataclass(frozen=True)
class Way:
    """What is done to the network: its name, the table that prices it, what the search decides."""

    name: str
    table: str
    widths: bool = False
    density: bool = False

    @property
    def searches(self) -> bool:
        return self.widths or self.density


def ways_of(table: str, device: Device) -> list[Way]:
    """Everything that a table prices."""
    quantise = ["quantise"] if device.precision == "int8" else []
    if device.block:
        kinds = [(["sparsify"], False, True), (["prune", "sparsify"], True, True)]
    else:
        kinds = [(["prune"], True, False)]
        if quantise:
            kinds.insert(0, ([], False, False))
    return [
        Way(" + ".join([*quantise, *words]), table, widths, density)
        for words, widths, density in kinds
    ]


def recommend(
    base: Settings,
    tables: Sequence[str],
    speedups: Sequence[float],
    latencies_ms: Sequence[float],
    out: Path,
    report: Report = lambda *_: None,
) -> dict:
    """Try every way within every budget; returns the content of recommend.json.

    `speedups` are over the dense network in FP32. A row says what a way costs and keeps; of every
    budget's rows that meet it the one with the most right held-out images is `recommended`. Raises
    RunError for tables of several machines, for two that price the same, and for a speedup without
    a table in FP32; and what `prune` raises, but for budgets that a way cannot meet, which its row
    tells.
    """
    opened = {table: LatencyTable.open(table) for table in dict.fromkeys(tables)}
    _require_one_machine(opened)
    ways = [way for table, found in opened.items() for way in ways_of(table, found.device)]
    twice = [way.name for way in ways if sum(each.name == way.name for each in ways) > 1]
    if twice:
        raise RunError(f"two tables price the same ({twice[0]}); give one of them")
    data = base.read_data(report)
    journeys = {table: Journey(base.varied(table=table), report) for table in opened}
    for journey in journeys.values():
        journey.data = data
        journey.task.check(journey.dense, journey.shape, data)
        _ = journey.latency  # raises where the table is not of this network
    for speedup in speedups:
        base.varied(speedup=speedup)  # raises where it is none
    in_fp32 = [j.latency for t, j in journeys.items() if opened[t].device.precision == "fp32"]
    if speedups and not in_fp32:
        raise RunError(
            "--speedup is over the dense network in FP32, which none of the tables is of; give "
            "--latency-ms, or a table in FP32 too"
        )
    budgets = [in_fp32[0].dense_s * 1e3 / speedup for speedup in dict.fromkeys(speedups)]
    budgets += dict.fromkeys(latencies_ms)
    out.mkdir(parents=True, exist_ok=True)
    with only_writer(out):
        rows = [_as_it_is(journeys[base.table], in_fp32)]
        total = len(budgets) * len(ways)
        tries = [(budget, way) for budget in budgets for way in ways]
        for number, (budget, way) in enumerate(tries):
            if not way.searches and budget != budgets[0]:
                continue  # the same for all
            report("recommend", number, total, f"{way.name}, {budget:.3g} ms")
            rows.append(_tried(base, way, budget, journeys[way.table], out, report))
            _write(out, base, rows, budgets)
        content = _write(out, base, rows, budgets)
        write_recommendation(out, f"{base.model} on {opened[base.table].device.processor}", content)
        report("recommend", total, total, "done")
    return content


def _write(out: Path, base: Settings, rows: Sequence[dict], budgets: Sequence[float]) -> dict:
    judged = [{**row, "recommended": False} for row in rows]
    content = {
        "settings": base.model_dump(mode="json", exclude={"table", "speedup", "latency_ms"}),
        "budgets_ms": list(budgets),
        "rows": judged,
    }
    for budget in budgets:
        within = [row for row in judged if _meets(row, budget)]
        best = max(within, key=lambda row: row["held_out"], default=None)
        if best is not None:
            best["recommended"] = True
    write_json(out / "recommend.json", content)
    return content


def _meets(row: dict, budget_ms: float) -> bool:
    """Whether a row is of that budget, and within it by its prediction."""
    of_it = row["budget_ms"] is None or row["budget_ms"] == budget_ms
    within = row["latency_ms"] is not None and row["latency_ms"] <= budget_ms * (1 + 1e-6)
    return of_it and within and row["held_out"] is not None


def _as_it_is(journey: Journey, in_fp32: Sequence[LatencyModel]) -> dict:
    dense_ms = in_fp32[0].dense_s * 1e3 if in_fp32 else None
    return {
        "way": DENSE,
        "table": None,
        "budget_ms": None,
        "latency_ms": dense_ms,
        "measured_ms": None,
        "speedup": 1.0 if dense_ms else None,
        "held_out": accuracy(journey.dense, journey.judged_by, task=journey.task),
        "accuracy": accuracy(journey.dense, journey.data.test, task=journey.task),
        "folder": None,
        "refused": None,
    }


def _tried(
    base: Settings, way: Way, budget: float, journey: Journey, out: Path, report: Report
) -> dict:
    name = f"{way.name.replace(' + ', '_')}_{budget:.4g}ms" if way.searches else way.name
    row = {
        "way": way.name,
        "table": way.table,
        "budget_ms": budget if way.searches else None,
        "folder": name,
    }
    if not way.searches:
        return row | _quantised(journey, out / name)
    settings = base.varied(
        table=way.table,
        latency_ms=budget,
        speedup=None,
        widths=way.widths,
        density=way.density,
        depth=base.depth and way.widths,
        patience=max(1, base.epochs),  # trains without the held-out images, all epochs
        **({} if journey.is_int8 else {name: usual(name) for name in OF_INT8}),
    )
    try:
        result = prune(settings, out / name, report, journey.data)
    except (BudgetError, SearchError) as error:
        return row | _nothing(str(error))
    measured = result["measured"] or {}
    over = measured.get("over_fp32") or ({} if journey.is_int8 else measured)
    return row | {
        "latency_ms": result["predicted"]["latency_ms"],
        "measured_ms": measured.get("latency_ms"),
        "speedup": over.get("speedup"),
        "held_out": _held_out(journey, RunFolder.open(out / name)),
        "accuracy": result["accuracy"]["exported"],
        "refused": None,
    }


def _nothing(why: str) -> dict:
    nothing = dict.fromkeys(("latency_ms", "measured_ms", "speedup", "held_out", "accuracy"))
    return {**nothing, "refused": why}


def _held_out(journey: Journey, run: RunFolder) -> float:
    """The exported network's score of the held-out images; kept, as it takes a while."""
    kept = run.path / "held_out.json"
    if not kept.exists():
        library = journey.kernels
        path = judged_file(run, library)
        score = onnx_accuracy(path, journey.judged_by, task=journey.task, library=library)
        write_json(kept, {"held_out": score})
    return read_json(kept)["held_out"]


def _quantised(journey: Journey, folder: Path) -> dict:
    """The dense network in INT8; kept like a run."""
    kept, settings = folder / "quantised.json", journey.settings
    source = {
        "files": files_read(settings),
        "calibration": settings.calibration,
        "images": settings.calibration_images,
    }
    if not kept.exists() or read_json(kept)["source"] != source:
        folder.mkdir(parents=True, exist_ok=True)
        batch = journey.latency.device.batch
        plain, quantised = folder / "dense_fp32.onnx", folder / "model.onnx"
        export_onnx(journey.dense, journey.shape, plain, batch)
        quantise(settings, journey.data.train, plain, quantised)
        measured = measure_pair(plain, quantised, Path(settings.table))
        timed = {} if isinstance(measured, NotTimed) else measured
        found = {
            "latency_ms": journey.latency.dense_s * 1e3,
            "measured_ms": timed.get("latency_ms"),
            "speedup": timed.get("speedup"),
            "held_out": onnx_accuracy(quantised, journey.judged_by, task=journey.task),
            "accuracy": onnx_accuracy(quantised, journey.data.test, task=journey.task),
            "refused": None,
        }
        write_json(kept, {"source": source, "row": found})
    return read_json(kept)["row"]


def _require_one_machine(tables: dict[str, LatencyTable]) -> None:
    """Raise RunError if the tables are not of one machine with one number of threads."""
    (first, one), *others = tables.items()
    for path, other in others:
        for name in ("kind", "processor", "threads", "batch"):
            here, there = getattr(one.device, name), getattr(other.device, name)
            if here != there:
                raise RunError(
                    f"{path} and {first} cannot be compared: {name} is {there} there and {here} "
                    "here. Give tables of one machine, used in one way"
                )
