"""Compare: the same network, table, recipe and budgets by several methods, beside smaller members
of its family.

Every method, budget and seed is a pruning run of its own in a folder of its own, so a comparison
that was interrupted continues with the same command. Each network is timed beside the dense one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, count, product
from pathlib import Path

import numpy as np
from pydantic import BaseModel
from torch import nn

from lookup_tables.errors import BudgetError
from lookup_tables.storage.files import only_writer
from lookup_tables.table.store import LatencyTable
from pruner import RunError, SearchError, models
from pruner.data.images import Data, image_marks
from pruner.run.folder import RunFolder, read_json, require_same_origin, write_json
from pruner.run.former import NAMES, comparison_of_today, settings_of_today
from pruner.run.measured import NotTimed, measure_pair
from pruner.run.origin import digest, digests, files_read, table_identity
from pruner.run.prune import prune
from pruner.run.quantised import quantise
from pruner.run.question import answers
from pruner.run.report import pareto
from pruner.run.report.comparison import write_comparison
from pruner.run.settings import CHOICES, Settings, owners
from pruner.search.methods import METHODS
from pruner.train.accuracy import accuracy, onnx_accuracy
from pruner.train.export import export_onnx
from pruner.train.tasks import TASKS
from pruner.train.tasks.base import VisionTask
from pruner.train.weights import load_weights

Report = Callable[[str, int, int, str], None]
OF_A_RUN = ("method", "method_settings", "speedup", "latency_ms", "seed")
# Of the settings, what no method may have of its own: the problem, its budgets and seeds.
FIXED = (
    "method", *(f"{choice}_settings" for choice in CHOICES), "model", "weights", "task", "data",
    "data_dir", "normalisation", "image_size", "table", "speedup", "latency_ms", "seed",
    "architecture", "keep_width", "keep_layer",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Member:
    """A smaller network of the same family: a model's name, and its weights or, where they are not
    at hand, the accuracy that was published."""

    model: str
    weights: Path | None = None
    published: float | None = None

    @property
    def label(self) -> str:
        return models.short_name(self.model)

    @classmethod
    def parse(cls, text: str) -> Member:
        """`NAME=WEIGHTS` or `NAME=ACCURACY`, a share or in percent; raises RunError."""
        name, _, rest = text.partition("=")
        try:
            share = float(rest.removesuffix("%")) / (100 if rest.endswith("%") else 1)
        except ValueError:
            share = None
        is_known = name in models.MODELS or ":" in name
        if not is_known or not rest or (share is not None and not 0 < share <= 1):
            raise RunError(
                f"--member {text!r}: expected NAME=WEIGHTS, as in resnet20=r20.th, or "
                "NAME=ACCURACY, as in resnet32=92.63%. NAME is your own file.py:factory or one "
                f"of {', '.join(models.MODELS)}"
            )
        return cls(name, Path(rest)) if share is None else cls(name, published=share)


def compare_methods(
    base: Settings,
    methods: Sequence[str],
    speedups: Sequence[float],
    seeds: Sequence[int],
    members: Sequence[Member],
    out: Path,
    report: Report = lambda *_: None,
    latencies_ms: Sequence[float] = (),
    question: tuple[str, str] | None = None,
) -> dict:
    """Run or continue a comparison; returns the content of compare.json.

    Budgets are `speedups` and `latencies_ms`. `question`: what the report also answers, and the
    criterion that it is asked by (`question.py`); its methods are among `methods`.

    `methods` are names, with settings of their own after a colon (`rl:agent=td3,reward=error`). A
    comparison may grow by methods, budgets, seeds and members: what an earlier call made stays in
    it, named again or not. A method that finds nothing within a budget has a row that says so.
    compare.json is written after every run; report.html and pareto.svg at the end. Raises what
    `prune` raises otherwise, and RunError if a folder holds a comparison with other settings,
    another table or other weights. Members are looked at before the first run begins.
    """
    shared = plan(base)
    budgets = [{"speedup": speedup, "latency_ms": None} for speedup in dict.fromkeys(speedups)]
    budgets += [{"speedup": None, "latency_ms": ms} for ms in dict.fromkeys(latencies_ms)]
    runs = [
        (method, variant(base, method).varied(**budget, seed=seed))
        for budget, method, seed in product(budgets, dict.fromkeys(methods), dict.fromkeys(seeds))
    ]
    twice = [name for name, count in Counter(m.label for m in members).items() if count > 1]
    if twice:
        raise RunError(f"--member {twice[0]} is given twice; give each network once")
    data = base.read_data(report)
    for member in members:
        _built(base, member, data)
    out.mkdir(parents=True, exist_ok=True)
    with only_writer(out):
        _keep(out, shared)
        _require_same_problem(out, base, data)
        rows = _finished(out, LatencyTable.open(base.table).device.name)
        question = question or _asked_before(out)
        for number, (method, settings) in enumerate(runs):
            name = _folder_of(method, settings, rows, out)
            report("compare", number, len(runs) + len(members), name)
            rows[name] = _run(method, settings, out / name, report, data)
            _write(out, shared, rows, question)
        for number, member in enumerate(members):
            report("compare", len(runs) + number, len(runs) + len(members), member.label)
            rows[member.label] = _member(base, member, data, out / member.label)
        content = _write(out, shared, rows, question)
    known = (row["dense_accuracy"] for row in content["rows"] if "dense_accuracy" in row)
    dense = next(known, None)
    if dense is not None:  # else no method met any of the budgets
        title = f"{base.model} on {Path(base.table).name}"
        pareto.save(content["summary"], title, dense, out / "pareto.svg", content["dense_ms"])
        told = answers(content["summary"], *question) if question else ()
        write_comparison(out / "report.html", title, content, dense, told)
    return content


def plan(base: Settings) -> dict:
    """What all runs of a comparison share, files and folders apart."""
    return base.model_dump(
        mode="json",
        exclude={*OF_A_RUN, "table", "data_dir", "weights"},
    )


def differing(before: dict, now: dict) -> list[str]:
    """The settings in which two plans differ; one that did not exist yet had its usual value."""

    def wording(name: str, value: object) -> object:
        """Of a user's function its name: its file is known by its content."""
        if name in ("model", "data") and isinstance(value, str) and ":" in value:
            return value.rpartition(":")[1:]
        return value

    known: type[BaseModel] = Settings  # those of its settings that have a usual value
    before = known.model_construct().model_dump(mode="json") | settings_of_today(before)
    return [name for name in now if wording(name, before[name]) != wording(name, now[name])]


def variant(base: Settings, method: str) -> Settings:
    """`NAME` or `NAME:setting=value,…` applied to the settings; raises RunError."""
    name, _, rest = method.partition(":")
    changes = dict(part.partition("=")[::2] for part in rest.split(",") if part)
    METHODS.choose(name, RunError)
    common = [field for field in Settings.model_fields if field not in FIXED]
    unknown = sorted(one for one in changes if one not in common and not any(owners(one)))
    if unknown:
        own = [n for of in CHOICES.values() for e in of.values() for n in e.settings.model_fields]
        raise RunError(
            f"--method {method!r}: {unknown[0]!r} is not a setting of a method; choose from "
            f"{', '.join([*common, *own])}"
        )
    return base.varied(method=name, **changes)


def _finished(out: Path, device: str) -> dict[str, dict]:
    """Folder → row of what earlier calls made and is still there, or was refused on this device."""
    path = out / "compare.json"
    rows = comparison_of_today(read_json(path, made_anew=False))["rows"] if path.exists() else []
    return {
        row["folder"]: row
        for row in rows
        if "folder" in row
        and (row.get("device") == device if "refused" in row else (out / row["folder"]).is_dir())
    }


def _asked_before(out: Path) -> tuple[str, str] | None:
    """The question that an earlier call asked of this comparison."""
    path = out / "compare.json"
    known = read_json(path, made_anew=False).get("question") if path.exists() else None
    return (known["asks"], known["criterion"]) if known else None


def _write(
    out: Path, shared: dict, rows: dict[str, dict], question: tuple[str, str] | None
) -> dict:
    found = list(rows.values())
    timed = [row["dense_ms"] for row in found if row.get("dense_ms")]
    dense_ms = float(np.median(timed)) if timed else None
    told = summary(found)
    content = {
        "names": NAMES,
        "settings": shared,
        "dense_ms": dense_ms,
        "rows": found,
        "summary": told,
    }
    if question is not None:
        answered = [
            {"asked": each.asked, "asked_ms": each.asked_ms, "told": each.told}
            for each in answers(told, *question)
        ]
        content["question"] = {"asks": question[0], "criterion": question[1], "answers": answered}
    write_json(out / "compare.json", content)
    return content


def _folder_of(method: str, settings: Settings, rows: dict[str, dict], out: Path) -> str:
    """The run's folder: the one that it has already, under whatever name it was begun.

    A folder that an earlier version gave another method, by the name that this one has today, is
    left alone.
    """
    known = (method, settings.speedup, settings.latency_ms, settings.seed)
    for name, row in rows.items():
        asked = None if row.get("asked_ms") else row["asked"]
        if (row["method"], asked, row.get("asked_ms"), row["seed"]) == known:
            return name
    plain = f"{_file_name(method)}_{_budget(settings)}_{settings.seed}"
    names = chain([plain], (f"{plain}_{number}" for number in count(2)))
    return next(n for n in names if n not in rows and _is_free(out / n, settings.method))


def _is_free(folder: Path, method: str) -> bool:
    return (
        not (folder / "settings.json").exists() or RunFolder.open(folder).settings.method == method
    )


def _budget(settings: Settings) -> str:
    return f"{settings.speedup:g}x" if settings.speedup else f"{settings.latency_ms:g}ms"


def _file_name(method: str) -> str:
    return re.sub(r"[^\w.-]+", "_", method)


def _run(method: str, settings: Settings, folder: Path, report: Report, data: Data) -> dict:
    """The run's row; where the budget cannot be met, why."""
    try:
        return _row(method, prune(settings, folder, report, data), folder)
    except (BudgetError, SearchError) as error:
        return {
            "method": method,
            "asked": settings.speedup,
            "asked_ms": settings.latency_ms,
            "seed": settings.seed,
            "folder": folder.name,
            "device": LatencyTable.open(settings.table).device.name,
            "refused": str(error),
        }


def summary(rows: Sequence[dict]) -> list[dict]:
    """Mean and range over seeds, for every method and budget, the most accurate first."""
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        if "refused" in row:
            continue
        budget = (row["asked"] or 0.0, row.get("asked_ms"))
        groups.setdefault((*budget, row["method"]), []).append(row)
    answer = []
    for (asked, asked_ms, method), members in groups.items():
        right = [row["accuracy"] for row in members]
        predicted = [row["predicted"] for row in members if row["predicted"]]
        measured = [row for row in members if row["measured"]]
        speed = [row["measured"] for row in measured]
        answer.append(
            {
                "method": method,
                "asked": asked or None,
                "asked_ms": asked_ms,
                "seeds": len(members),
                "predicted": float(np.mean(predicted)) if predicted else None,
                # Rounded, a mean of equal numbers may lie outside of them.
                "accuracy": float(np.clip(np.mean(right), min(right), max(right))),
                "accuracy_low": min(right),
                "accuracy_high": max(right),
                "measured": float(np.median(speed)) if speed else None,
                "measured_low": min(r["measured_low"] for r in measured) if speed else None,
                "measured_high": max(r["measured_high"] for r in measured) if speed else None,
            }
        )
    return sorted(answer, key=lambda entry: (entry["asked"] or 0.0, -entry["accuracy"]))


def _row(method: str, result: dict, folder: Path) -> dict:
    measured, judged = result["measured"] or {}, result["accuracy"]
    in_int8 = "dense_int8" in judged  # then all times are of networks in INT8, and all accuracies
    return {
        "method": method,
        "asked": result["settings"]["speedup"] or round(result["asked"]["speedup"], 4),
        "asked_ms": result["settings"]["latency_ms"],
        "seed": result["seed"],
        "folder": folder.name,
        "predicted": result["predicted"]["speedup"],
        "latency_ms": measured.get("latency_ms"),
        "dense_ms": measured.get("dense_ms"),
        "measured": measured.get("speedup"),
        "measured_low": measured.get("speedup_low"),
        "measured_high": measured.get("speedup_high"),
        "dense_accuracy": judged["dense_int8" if in_int8 else "dense"],
        "before_fine_tuning": judged["pruned"],
        "accuracy": judged["exported" if in_int8 else "fine_tuned"],
        "macs_share": result["macs"]["pruned"] / result["macs"]["dense"],
        "seconds": result["seconds"],
        "commit": result["commit"],
    }


def _built(base: Settings, member: Member, data: Data) -> nn.Module:
    """The member's network; raises an error if it does not fit the data or its weights."""
    model = models.build(member.model, data.classes)
    if member.weights is not None:
        load_weights(model, member.weights)
    _task(base).check(model, models.shape_for(base.model, data.shape), data)
    return model


def _task(base: Settings) -> VisionTask:
    return TASKS[base.task].make(base.own("task"))


def _member(base: Settings, member: Member, data: Data, folder: Path) -> dict:
    """A member's accuracy and its speedup over the dense network; weights do not change a time."""
    done = folder / "member.json"
    device = LatencyTable.open(base.table).device
    source = {
        "device": device.name,
        "model": digests(member.model, "", None).get("model"),
        "accuracy": member.published if member.weights is None else digest(member.weights),
    }
    if done.exists():
        row = read_json(done)
        if {"model": None} | row["source"] == source and row["measured"]:
            return row
    folder.mkdir(parents=True, exist_ok=True)
    dense, model = models.build(base.model, data.classes), _built(base, member, data)
    in_int8 = device.precision == "int8"
    for each, path in ((dense, folder / "dense.onnx"), (model, folder / "model.onnx")):
        plain = path.with_suffix(".fp32.onnx") if in_int8 else path
        export_onnx(each, data.shape, plain, device.batch, "fp32" if in_int8 else device.precision)
        if in_int8:
            quantise(base, data.train, plain, path)
    measured = measure_pair(folder / "dense.onnx", folder / "model.onnx", Path(base.table))
    known = {} if isinstance(measured, NotTimed) else measured
    row = {
        "method": member.label,
        "asked": None,
        "seed": None,
        "folder": folder.name,
        "predicted": None,
        "latency_ms": known.get("latency_ms"),
        "dense_ms": known.get("dense_ms"),
        "measured": known.get("speedup"),
        "measured_low": known.get("speedup_low"),
        "measured_high": known.get("speedup_high"),
        "accuracy": member.published or _accuracy_of(base, model, data, folder, in_int8),
        "published": member.published is not None,
        "source": source,
    }
    write_json(done, row)
    return row


def _accuracy_of(
    base: Settings, model: nn.Module, data: Data, folder: Path, in_int8: bool
) -> float:
    """A member's score of the test images, in INT8 that of its file."""
    if in_int8:
        return onnx_accuracy(folder / "model.onnx", data.test, task=_task(base))
    return accuracy(model, data.test, task=_task(base))


def _keep(out: Path, shared: dict) -> None:
    """Write down what all runs share; raises RunError if runs of another plan are there."""
    path = out / "plan.json"
    begun = (out / "compare.json").exists() or any(out.glob("*/settings.json"))
    if not (begun and path.exists()):
        write_json(path, shared)
        return
    other = differing(read_json(path, made_anew=False), shared)
    if other:
        raise RunError(
            f"{out} holds another comparison ({', '.join(other)} differ); continue with the same "
            "options, or choose another --out"
        )


def _require_same_problem(out: Path, base: Settings, data: Data) -> None:
    """Raise RunError where a run in `out` read another table, weights, user's file or images."""
    files, table, images = files_read(base), LatencyTable.open(base.table), image_marks(data)
    for path in sorted(out.glob("*/origin.json")):
        origin = read_json(path, made_anew=False)
        network = origin.get("priced_by", models.short_name(base.model, origin.get("classes")))
        now = {
            "table": table_identity(table, network),
            "files_sha256": files,
            "images": images,
        }
        require_same_origin(path.parent, origin, now, base)
