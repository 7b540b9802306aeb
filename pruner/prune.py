"""The journey: a model, a table and a budget in; a smaller, fine-tuned, checked network out.

Every step leaves a file in the run's folder and, but for the export, is skipped when the file is
there, so an interrupted run continues with the same command and arrives at the same result.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from lookup_tables.errors import BudgetError
from lookup_tables.estimate import LatencyModel
from lookup_tables.files import only_writer
from lookup_tables.network import Architecture, Network
from lookup_tables.provenance import commit
from lookup_tables.staircase import Staircase
from lookup_tables.table import LatencyTable
from pruner import models
from pruner.accuracy import accuracy, onnx_accuracy, recalibrate, score
from pruner.completion import Completion
from pruner.criteria import CRITERIA, DYNAMIC
from pruner.criteria.coupled import coupled_magnitude
from pruner.criteria.dynamic import Phase, select
from pruner.criteria.taylor import importance
from pruner.data import Data, Images, image_marks, load_data, require_fit, require_repeatable
from pruner.errors import ModelError, RunError, SearchError
from pruner.export import export_onnx
from pruner.finetune import Recipe, fine_tune
from pruner.measured import NotTimed, measure_pair
from pruner.methods import METHODS, SearchSettings
from pruner.origin import files_read, table_identity, versions
from pruner.problem import SearchProblem
from pruner.reading import ReadOnce
from pruner.reconstruct import Reconstruction
from pruner.report import write_report
from pruner.run_folder import WIDTHS_ONLY, RunFolder, Settings, read_json, write_json
from pruner.search_log import SearchLog, read_log
from pruner.surgery import Kept, cut, keep_best, shrink
from pruner.trace import Trace, trace
from pruner.weights import load_weights, save_weights

Report = Callable[[str, int, int, str], None]  # step, done, of how many, what now
CLEARLY = 0.999
SCORE = 3  # raised whenever the same candidates are scored otherwise
SCORED_ONCE = ("uniform", "magnitude", "knapsack")
FEW_IMAGES = 100  # of fewer BatchNorm sees too little
RESCORED = 5  # the search's best, scored again on all held-out images


def prune(
    settings: Settings,
    out: str | Path,
    report: Report = lambda *_: None,
    data: Data | None = None,
) -> dict:
    """Run or continue a pruning run; returns the content of result.json.

    `data`: what `settings.data` names, where it has been read already. Raises BudgetError,
    TableError, ModelError, TraceError, DataError or RunError.
    """
    journey = Journey(settings, report)
    if data is not None:
        journey.data = data
    # Before a folder exists: a wrong table, model or budget leaves nothing behind.
    if settings.depth and not journey.trace.network.blocks:
        raise RunError(f"--depth: {settings.model} has no block that could go; leave it out")
    require_fit(journey.dense, journey.shape, journey.data)
    require_reachable(journey)
    if not (Path(out) / "settings.json").exists():
        require_repeatable(journey.data)
    origin = {
        "versions": versions(),
        "commit": commit(),
        "input_shape": list(journey.shape),
        "classes": journey.data.classes,
        "table": table_identity(journey.table, journey.priced.name),
        "priced_by": journey.priced.name,
        "score": SCORE,
        "stands_in": journey.priced.fingerprint != journey.trace.network.fingerprint,
        "files_sha256": files_read(settings),
        "images": image_marks(journey.data),
    }
    run = RunFolder.begin(out, settings, origin)
    with only_writer(run.path):
        if run.result.exists():
            result = read_json(run.result)
            if result["measured"] or isinstance(measure(journey, run), NotTimed):
                return result
            # It was made elsewhere, and this is the table's device: the result grows by a time.
        with run.timed("search"):
            architecture = search(journey, run)
        with run.timed("fine_tune"):
            model = tune(journey, run, architecture)
        difference = export(journey, run, model)
        measured = measure(journey, run)
        return summarise(journey, run, architecture, model, measured, difference)


def require_reachable(journey: Journey) -> None:
    """Raise BudgetError if no architecture on the menu takes so little time.

    Of an architecture that is given, if it takes more.
    """
    if journey.given is not None:
        _require_within(journey, journey.given)
        return
    depth = journey.settings.depth and journey.settings.method not in WIDTHS_ONLY
    try:
        Completion(journey.latency, depth).require(journey.limit_s, journey.score)
    except BudgetError as error:
        if journey.limit_s == journey.budget_s:
            raise
        raise BudgetError(
            f"{error}. More was asked for, but this table's predictions hold to within "
            f"±{journey.widest:.0%} only, and a slower network than the dense one is never made; "
            "continue its profile for a better table: latprof profile --error"
        ) from None


def _require_within(journey: Journey, given: Architecture) -> None:
    for name, width in given.widths.items():
        lowest = journey.latency.lowest_widths[name]
        if width < lowest:
            raise RunError(
                f"{journey.settings.architecture}: {name} is {width} wide, the table knows it from "
                f"{lowest} up only. Give {lowest} or more"
            )
    latency_s = journey.latency.latency_s(given)
    if latency_s > journey.limit_s * (1 + 1e-9):
        allowed = "the budget" if journey.limit_s == journey.budget_s else "what is surely faster"
        raise BudgetError(
            f"{journey.settings.architecture}: predicted {latency_s * 1e3:.3f} ms, {allowed} is "
            f"{journey.limit_s * 1e3:.3f} ms. Give another architecture, or a larger budget"
        )


@dataclass
class Journey:
    """What the steps share, made when first asked for."""

    settings: Settings
    report: Report

    @cached_property
    def data(self) -> Data:
        self.report("load", 0, 1, f"reading {self.settings.data}")
        return load_data(
            self.settings.data,
            self.settings.data_dir,
            normalisation=self.settings.normalisation,
        )

    @cached_property
    def recalibrated_by(self) -> Images:
        """Training images that BatchNorm is measured on; see `score` for when candidates are."""
        return ReadOnce(self.data.train)

    @cached_property
    def judged_by(self) -> Images:
        """Held-out training images that every candidate is scored on."""
        return ReadOnce(self.data.held_out)

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        return models.input_shape(self.settings.model) or self.data.shape

    @cached_property
    def dense(self) -> nn.Module:
        model = models.build(self.settings.model, self.data.classes)
        load_weights(model, self.settings.weights)
        return model.eval()

    @cached_property
    def trace(self) -> Trace:
        name = models.short_name(self.settings.model, self.data.classes)
        return trace(self.dense, self.shape, name)

    @cached_property
    def table(self) -> LatencyTable:
        return LatencyTable.open(self.settings.table)

    @cached_property
    def priced(self) -> Network:
        """The network whose rows the table holds: this one, or one for more classes."""
        return self.table.pricing(self.trace.network)

    @cached_property
    def latency(self) -> LatencyModel:
        """What the table predicts; offered are only widths at the right edges of its steps."""
        measured = LatencyModel(self.priced, self.table)
        menu = Staircase(measured).menu()
        stay = groups_of(menu, self.settings.keep_width)
        offered = {
            group.name: group.choices
            if self.settings.widths and group.name not in stay
            else (group.width,)
            for group in menu.groups
        }
        return measured.with_menu(menu.with_menu(offered))

    @cached_property
    def given(self) -> Architecture | None:
        """The architecture that the settings name, None where one is searched."""
        if self.settings.architecture is None:
            return None
        architecture = Architecture.load(self.settings.architecture)
        self.trace.network.check(architecture)
        return architecture

    @property
    def budget_s(self) -> float:
        if self.settings.latency_ms is not None:
            return self.settings.latency_ms / 1e3
        if self.settings.speedup is not None:
            return self.latency.dense_s / self.settings.speedup
        return self.latency.latency_s(self.given)

    @property
    def limit_s(self) -> float:
        """What candidates may take: the budget, or less where it is close to the dense latency.

        The upper end of a candidate's interval then stays below the dense network: nothing is
        offered that may turn out slower than its parent.
        """
        return min(self.budget_s, CLEARLY * self.latency.dense_s / (1 + self.widest))

    @property
    def widest(self) -> float:
        """The table's widest interval, a relative half-width."""
        return max(self.latency.interval_90, self.latency.interval_90_any)

    @cached_property
    def channel_importance(self) -> dict:
        """What candidates are cut by; dynamic selection has its say when one was chosen."""
        criterion = CRITERIA[
            "l1" if self.settings.criterion == DYNAMIC else self.settings.criterion
        ]
        return criterion(self.trace, self.data.train)

    @cached_property
    def reconstruction(self) -> Reconstruction:
        self.report("load", 0, 1, "measuring what layers read")
        depth = self.settings.depth or bool(self.given and self.given.removed)
        return Reconstruction(self.trace, self.data.train, self.settings.seed, depth)

    def problem(
        self, score: Callable[[Architecture], float], kept: Path | None = None
    ) -> SearchProblem:
        """The problem as a search method sees it.

        What it asks about channels is kept in the folder `kept`, so that a search can be repeated
        without images, and exactly.
        """
        return SearchProblem(
            self.latency.network,
            self.latency,
            self.limit_s,
            score,
            importance=lambda: _kept(
                kept, "importance", lambda: importance(self.trace, self.data.train)
            ),
            magnitudes=lambda: _kept(kept, "magnitudes", lambda: coupled_magnitude(self.trace)),
        )

    def cut(self, architecture: Architecture) -> nn.Module:
        """The pruned model: best-ranked filters, weights refitted, BatchNorm measured anew."""
        return self._recalibrated(self._refitted(architecture))

    def _refitted(self, architecture: Architecture) -> nn.Module:
        kept = keep_best(self.trace.network, architecture, self.channel_importance)
        return cut(self._traced_for(kept, architecture.removed), architecture, kept)

    def _traced_for(self, kept: Kept, removed: Collection[str]) -> Trace:
        """The trace to cut, refitted to what stays unless the settings forbid it."""
        return self.reconstruction.refit(kept, removed) if self.settings.reconstruct else self.trace

    def select(self, architecture: Architecture) -> nn.Module:
        """The pruned model whose filters were chosen while they trained."""
        traced = self.trace
        if architecture.removed:
            all_of_them = {g.name: torch.arange(g.width) for g in traced.network.groups}
            traced = self._traced_for(all_of_them, architecture.removed)
        traced, kept = select(
            traced,
            architecture,
            self.data.train,
            Phase(regenerated=self.settings.regenerate),
            self.settings.seed,
            report=lambda step, total, text: self.report("select", step, total, text),
        )
        return self._recalibrated(cut(traced, architecture, kept))

    def _recalibrated(self, model: nn.Module) -> nn.Module:
        recalibrate(model, self.recalibrated_by, self.settings.recalibration_images, fast=True)
        return model

    def score(self, architecture: Architecture, count: int | None = None) -> float:
        """Accuracy before fine-tuning, on held-out training images."""
        if min(count or FEW_IMAGES, len(self.judged_by)) < FEW_IMAGES:
            return accuracy(self.cut(architecture), self.judged_by, count, fast=True)
        return score(self._refitted(architecture), self.judged_by, count)


def search(journey: Journey, run: RunFolder) -> Architecture:
    """The best architecture within the budget that the method finds."""
    if run.architecture.exists():
        return Architecture.load(run.architecture)
    if journey.given is not None:
        journey.given.save(run.architecture)
        return journey.given
    settings = journey.settings
    episodes = 1 if settings.method in SCORED_ONCE else settings.episodes

    def progress(log: SearchLog) -> None:
        text = "nothing within the budget yet"
        if log.best is not None:
            accuracy_now, best = log.best
            speedup = journey.latency.dense_s / journey.latency.latency_s(best)
            text = f"best {accuracy_now:.1%} before fine-tuning, predicted {speedup:.2f}×"
        journey.report("search", log.asked, episodes, text)

    log = SearchLog(
        run.search_log,
        lambda architecture: journey.score(architecture, settings.score_images),
        journey.latency,
        progress,
        journey.limit_s,
    )
    METHODS[settings.method](journey.problem(log.score, run.path), for_search(settings))
    best = choose(journey, log)
    best.save(run.architecture)
    return best


def groups_of(network: Network, layers: Sequence[str]) -> set[str]:
    """The groups that some layers' outputs are made of; raises RunError for an unknown layer."""
    for name in layers:
        if name not in network.geometry:
            near = get_close_matches(name, network.geometry, n=3, cutoff=0)
            raise RunError(
                f"--keep-width {name!r}: no layer of {network.name}; nearest: "
                + (", ".join(near) or "no layer")
            )
    return {group for name in layers for group, _ in network.geometry[name].out_form.factors}


def for_search(settings: Settings) -> SearchSettings:
    """What of a run's settings its search method is given."""
    names = [field.name for field in fields(SearchSettings)]
    return SearchSettings(**{name: getattr(settings, name) for name in names})


def _kept(folder: Path | None, name: str, measure: Callable[[], dict]) -> dict[str, list[float]]:
    path = folder / f"{name}.json" if folder else None
    if path and path.exists():
        return read_json(path)
    found = {channels: values.tolist() for channels, values in measure().items()}
    if path:
        write_json(path, found)
    return found


def choose(journey: Journey, log: SearchLog) -> Architecture:
    """The best of the search's few best, on all held-out images: a small sample flatters.

    Raises SearchError if the search scored nothing within the budget.
    """
    within = [
        architecture
        for _, architecture in log.ranked()
        if journey.latency.latency_s(architecture) <= journey.limit_s * (1 + 1e-9)
    ][:RESCORED]
    if not within:
        raise SearchError(
            f"none of the {len(log.scores)} architectures that {journey.settings.method} scored "
            "meets the budget; allow more --episodes, or use another --method"
        )
    if len(within) == 1:
        return within[0]
    again = SearchLog(log.path.with_name("rescored.jsonl"), journey.score, journey.latency)
    return max(within, key=again.score)


def tune(journey: Journey, run: RunFolder, architecture: Architecture) -> nn.Module:
    """The pruned model, fine-tuned; its weights are saved."""
    if run.weights.exists():
        return load_pruned(journey.trace, run)
    settings = journey.settings
    model = prepare(journey, run, architecture)
    recipe = Recipe(
        epochs=settings.epochs,
        batch=settings.batch,
        rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        label_smoothing=settings.label_smoothing,
        distill=settings.distill,
        patience=settings.patience,
        seed=settings.seed,
    )
    judged = settings.patience > 0  # by held-out images, which are then not trained on
    epochs = fine_tune(
        model,
        journey.data.train if judged else journey.data.all_training,
        recipe,
        run.checkpoint,
        journey.dense,
        lambda step, total, text: journey.report("fine-tune", step, total, text),
        journey.judged_by,
    )
    write_json(run.training, [asdict(epoch) for epoch in epochs])
    save_weights(model, run.weights)
    run.checkpoint.unlink(missing_ok=True)
    return model


def prepare(journey: Journey, run: RunFolder, architecture: Architecture) -> nn.Module:
    """The pruned model before fine-tuning; its weights are kept for the report."""
    if run.cut_weights.exists():
        model = shrink(journey.trace, architecture)
        load_weights(model, run.cut_weights)
        return model
    dynamic = journey.settings.criterion == DYNAMIC
    model = journey.select(architecture) if dynamic else journey.cut(architecture)
    save_weights(model, run.cut_weights)
    return model


def load_pruned(traced: Trace, run: RunFolder) -> nn.Module:
    """The run's architecture with its fine-tuned weights."""
    model = shrink(traced, Architecture.load(run.architecture))
    load_weights(model, run.weights)
    return model.eval()


def load_run(path: str | Path) -> nn.Module:
    """The fine-tuned model of a finished run, ready to use; raises RunError or ModelError."""
    run = RunFolder.open(path)
    if not run.weights.exists():
        raise ModelError(f"{path}: the run has not been fine-tuned yet; continue it first")
    classes = run.origin().get("classes")
    model = models.build(run.settings.model, classes)
    shape = tuple(run.origin()["input_shape"])
    traced = trace(model, shape, models.short_name(run.settings.model, classes))
    return load_pruned(traced, run)


def export(journey: Journey, run: RunFolder, model: nn.Module) -> float:
    """Both networks as ONNX; the pruned one's largest relative difference from PyTorch."""
    journey.report("export", 0, 1, "writing ONNX")
    device = journey.latency.device
    if not run.dense_onnx.exists():
        export_onnx(journey.dense, journey.shape, run.dense_onnx, device.batch, device.precision)
    return export_onnx(model, journey.shape, run.onnx, device.batch, device.precision)


def measure(journey: Journey, run: RunFolder) -> dict | NotTimed:
    """Paired timing where the table's device is at hand; kept once it was made."""
    if run.measured.exists():
        return read_json(run.measured)
    journey.report("measure", 0, 1, "timing in pairs")
    measured = measure_pair(run.dense_onnx, run.onnx, Path(journey.settings.table))
    if not isinstance(measured, NotTimed):
        write_json(run.measured, measured)
    return measured


def summarise(journey, run: RunFolder, architecture, model, measured, difference: float) -> dict:
    """Write result.json and report.html; the only step that sees the test set."""
    journey.report("report", 0, 1, "accuracy on the test set")
    latency, test = journey.latency, journey.data.test
    prediction = latency.predict_architectures([architecture])
    latency_s = float(prediction.latency_s[0])
    before, tried = journey.trace.network, read_log(run.search_log)
    epochs = read_json(run.training, made_anew=False) if run.training.exists() else []
    result = {
        "asked": _latencies(latency.dense_s, journey.budget_s),
        "predicted": {
            **_latencies(latency.dense_s, latency_s),
            "low_ms": float(prediction.low_s[0]) * 1e3,
            "high_ms": float(prediction.high_s[0]) * 1e3,
            "interpolated": float(prediction.interpolated[0]),
        },
        "measured": None if isinstance(measured, NotTimed) else measured,
        "not_measured_because": measured.reason if isinstance(measured, NotTimed) else None,
        "accuracy": {
            "dense": accuracy(journey.dense, test),
            "pruned": accuracy(prepare(journey, run, architecture), test),
            "fine_tuned": accuracy(model, test),
            "exported": onnx_accuracy(run.onnx, test),
            "test_images": len(test),
        },
        "macs": {
            "dense": before.macs_of(before.dense),
            "pruned": before.macs_of(architecture),
        },
        "bought": bought(latency, architecture),
        "table_error": table_error(journey.table, journey.priced.name),
        "parameters": {"dense": _count(journey.trace.module), "pruned": _count(model)},
        "export_difference": difference,
        "training": epochs,
        "seconds": _seconds(run, tried, epochs),
        "device": latency.device.model_dump(exclude_none=True),
        "settings": run.settings.model_dump(),
        "seed": run.settings.seed,
        **{name: value for name, value in run.origin().items() if name != "images"},
    }
    # First: a run counts as done once result.json is there.
    write_report(run.report, result, latency, architecture, tried)
    write_json(run.result, result)
    return result


def _seconds(run: RunFolder, tried: list[dict], epochs: list[dict]) -> dict[str, float]:
    """Seconds of each step; of a killed session at least those of its scores and its epochs."""
    known = {
        "search": sum(row.get("evaluation_s", 0.0) for row in tried),
        "fine_tune": sum(epoch["seconds"] for epoch in epochs),
    }
    spent = run.seconds_spent()
    return {step: max(seconds, spent.get(step, 0.0)) for step, seconds in known.items()}


def table_error(table: LatencyTable, network: str) -> dict[str, float] | None:
    """How wrong the table was on unseen networks, relative; None if its profile has not finished.

    `menu` of networks on the menu of widths, `any` of networks at any width.
    """
    found = {kind: table.validation(network, kind) for kind in ("menu", "any")}
    return {kind: judged.rmspe for kind, judged in found.items() if judged} or None


def bought(latency: LatencyModel, architecture: Architecture) -> list[dict]:
    """Which layers' time was saved, most first; below 0 where a layer became slower."""
    now = {layer.name: layer.seconds for layer in latency.layers(architecture)}
    found = [
        {
            "layer": layer.name,
            "dense_ms": layer.seconds * 1e3,
            "pruned_ms": now.get(layer.name, 0.0) * 1e3,  # a removed layer takes none
        }
        for layer in latency.layers(latency.network.dense)
    ]
    return sorted(found, key=lambda row: row["pruned_ms"] - row["dense_ms"])


def _latencies(dense_s: float, latency_s: float) -> dict[str, float]:
    return {
        "latency_ms": latency_s * 1e3,
        "dense_ms": dense_s * 1e3,
        "speedup": dense_s / latency_s,
    }


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
