"""A run: a model, a table and a budget in; a smaller, fine-tuned, checked network out.

Every step leaves a file in the run's folder and, but for the export, is skipped when the file is
there, so an interrupted run continues with the same command and arrives at the same result.
"""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

from torch import nn

from lookup_tables.architecture import Architecture
from lookup_tables.storage.files import only_writer
from lookup_tables.storage.provenance import commit
from pruner import ModelError, RunError, SearchError, models
from pruner.criteria.layers import LAYER_CRITERIA
from pruner.data.images import Data, image_marks
from pruner.data.own import require_repeatable
from pruner.graph.surgery import load_shrunk
from pruner.graph.trace import trace
from pruner.run.confirm import confirmed
from pruner.run.folder import RunFolder, read_json, write_json
from pruner.run.front import front
from pruner.run.journey import Journey, Report, require_reachable
from pruner.run.kernels import convert
from pruner.run.measured import NotTimed, measure_pair
from pruner.run.origin import files_read, table_identity, versions
from pruner.run.quantised import export_quantised, load_final, settle
from pruner.run.result import Models, summarise
from pruner.run.settings import OF_INT8, Settings, usual
from pruner.search.log import SearchLog
from pruner.search.methods.filters import FilterSettings
from pruner.search.methods.knapsack import KnapsackSettings
from pruner.search.methods.layerprune import LayerPruneSettings
from pruner.search.searcher import evaluated_here
from pruner.train.export import export_onnx, largest_difference, require_alike
from pruner.train.finetune import fine_tune
from pruner.train.weights import save_weights

SCORE = 4  # raised whenever the same candidates are scored otherwise
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
    require_possible(journey)  # before a folder exists: what is wrong leaves nothing behind
    if not (Path(out) / "settings.json").exists():
        require_repeatable(journey.data)
    run = RunFolder.begin(out, settings, origin_of(journey))
    with only_writer(run.path):
        if run.result.exists():
            result = read_json(run.result)
            if result["measured"] or isinstance(measure(journey, run), NotTimed):
                return result
            # It was made elsewhere, and this is the table's device: the result grows by a time.
        with run.timed("search"):
            architecture = found_within(journey, run)
        with run.timed("fine_tune"):
            model = tune(journey, run, architecture)
        if journey.is_int8:
            with run.timed("quantise"):
                model = settle(journey, run, model)
        difference = export(journey, run, model)
        measured = measure(journey, run)
        models_made = Models(prepare(journey, run, architecture), model)
        result = summarise(journey, run, architecture, models_made, measured, difference)
        report("report", 1, 1, "accuracy on the test set")
        return result


def require_possible(journey: Journey) -> None:
    """Raise for a table, model, data set or budget that no run can be made with."""
    if journey.settings.may_remove and not journey.trace.network.blocks:
        model, given = journey.settings.model, "--depth"
        if journey.settings.searched_by.only_blocks:
            given = f"--method {journey.settings.method}"
        raise SearchError(
            f"{given}: {model} has no removable block: no layer that keeps shape, and no shortcut "
            "around one; narrow its layers instead"
        )
    _require_criterion(journey)
    if journey.given and journey.given.density and journey.criterion.select is not None:
        raise RunError(
            f"{journey.settings.architecture} leaves out weights, which --criterion "
            f"{journey.settings.criterion} cannot do; use another criterion"
        )
    for name in OF_INT8:
        if not journey.is_int8 and getattr(journey.settings, name) != usual(name):
            raise RunError(
                f"--{name.replace('_', '-')} has no effect: {journey.settings.table} is of "
                f"networks in {journey.table.device.precision}"
            )
    if journey.settings.confirm and journey.is_int8:
        raise RunError(
            "--confirm times networks before they are trained, and those in INT8 are quantised "
            "after it; leave it out"
        )
    if journey.settings.density and not journey.latency.device.block:
        beside = journey.table.network_path(journey.priced.name)
        network = str(beside) if beside.exists() else journey.priced.name
        raise RunError(
            f"--density: {journey.settings.table} holds no sparse layers; measure them with: "
            f"latprof profile --network {network} --kernels block_sparse --out NEW_FOLDER"
        )
    journey.task.check(journey.dense, journey.shape, journey.data)
    require_reachable(journey)
    if journey.given is None:
        method = journey.settings.searched_by
        method.check(journey.problem(), journey.settings.own("method"))


def _require_criterion(journey: Journey) -> None:
    """Raise for a layer criterion that there is not, or that cannot do what its method asks."""
    own = journey.settings.own("method")
    if isinstance(own, LayerPruneSettings | FilterSettings):
        criterion = LAYER_CRITERIA.choose(own.layer_criterion, RunError)
        if isinstance(own, FilterSettings):
            criterion.require_channels()
    if isinstance(own, KnapsackSettings) and own.worth != "taylor" and journey.settings.density:
        raise RunError(
            f"--density: weights are judged by taylor only, and channels by --worth {own.worth}; "
            "leave one of them out"
        )


def origin_of(journey: Journey) -> dict:
    """What a run begins with, written down to be compared when it is continued."""
    return {
        "versions": versions(),
        "commit": commit(),
        "input_shape": list(journey.shape),
        "classes": journey.data.classes,
        "table": table_identity(journey.table, journey.priced.name),
        "priced_by": journey.priced.name,
        "score": SCORE,
        "plain_layers": plain_layers(journey),
        "stands_in": journey.priced.fingerprint != journey.trace.network.fingerprint,
        "files_sha256": files_read(journey.settings),
        "images": image_marks(journey.data),
    }


def plain_layers(journey: Journey) -> list[str]:
    """The plain layers that the search may remove."""
    network = journey.priced
    if not journey.settings.may_remove:
        return []
    return [block.name for block in network.blocks if network.is_plain(block)]


def found_within(journey: Journey, run: RunFolder) -> Architecture:
    """The architecture that is given, or that the method finds; confirmed where that is asked."""
    if run.architecture.exists():
        return Architecture.load(run.architecture)
    if journey.given is not None:
        best = journey.given
    elif journey.settings.confirm:
        best = confirmed(
            journey,
            run,
            lambda: search(journey, run),
            lambda each: _timed_untrained(journey, run, each),
        )
    else:
        best = search(journey, run)
    best.save(run.architecture)
    return best


def _timed_untrained(
    journey: Journey, run: RunFolder, architecture: Architecture
) -> dict | NotTimed:
    """What a network takes that was cut and not trained, beside the dense one; nothing is kept."""
    try:
        export(journey, run, journey.cut(architecture))
        journey.report("confirm", 0, 1, "timing in pairs")
        return measure_pair(run.dense_onnx, run.onnx, Path(journey.settings.table))
    finally:
        for file in (run.onnx, run.zeros_onnx):
            file.unlink(missing_ok=True)


def search(journey: Journey, run: RunFolder) -> Architecture:
    """The best architecture within the limit that the method finds."""
    log = explore(journey, run)
    if journey.settings.searched_by.gives_front:
        write_front(journey, run, log)
    return choose(journey, log)


def explore(journey: Journey, run: RunFolder) -> SearchLog:
    """Everything that the method scores; continues where it was interrupted."""
    settings, problem = journey.settings, journey.problem(run.path)

    def progress(log: SearchLog) -> None:
        text = "nothing within the budget yet"
        if log.best is not None:
            accuracy_now, best = log.best
            speedup = journey.latency.dense_s / journey.latency.latency_s(best)
            text = f"best {accuracy_now:.1%} before fine-tuning, predicted {speedup:.2f}×"
        journey.report("search", log.asked, problem.episodes, text)

    log = SearchLog(
        run.search_log,
        evaluated_here(lambda architecture: journey.score(architecture, settings.score_images)),
        journey.latency,
        progress,
        journey.limit_s,
    )
    log.run(settings.searched_by.make(problem, settings.own("method")), problem.at_once)
    return log


def write_front(journey: Journey, run: RunFolder, log: SearchLog) -> dict:
    """What of a search nothing faster surpasses, as a file: the content of front.json."""
    settings = journey.settings
    found = front(log.scored(), journey.latency, settings.model, settings.method)
    write_json(run.front, found)
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
    here = evaluated_here(journey.score)
    again = SearchLog(log.path.with_name("rescored.jsonl"), here, journey.latency)
    return max(within, key=again.score)


def tune(journey: Journey, run: RunFolder, architecture: Architecture) -> nn.Module:
    """The pruned model, fine-tuned; its weights are saved."""
    if run.weights.exists():
        return load_shrunk(journey.trace, architecture, run.weights)
    model, sparsity = prepare(journey, run, architecture), None
    if architecture.density:
        model, sparsity = journey.thinned_in_training(model, architecture)
    epochs = fine_tune(
        model,
        journey.taught_by,
        journey.recipe,
        run.checkpoint,
        journey.dense,
        lambda step, total, text: journey.report("fine-tune", step, total, text),
        journey.judged_by,
        task=journey.task,
        sparsity=sparsity,
    )
    write_json(run.training, [asdict(epoch) for epoch in epochs])
    save_weights(model, run.weights)
    run.checkpoint.unlink(missing_ok=True)
    return model


def prepare(journey: Journey, run: RunFolder, architecture: Architecture) -> nn.Module:
    """The pruned model before fine-tuning; its weights are kept for the report."""
    if run.cut_weights.exists():
        return load_shrunk(journey.trace, architecture, run.cut_weights)
    model = journey.pruned(architecture)
    save_weights(model, run.cut_weights)
    return model


def load_run(path: str | Path) -> nn.Module:
    """The fine-tuned model of a finished run, ready to use; raises RunError or ModelError."""
    run = RunFolder.open(path)
    if not run.weights.exists():
        raise ModelError(f"{path}: the run has not been fine-tuned yet; continue it first")
    classes = run.origin().get("classes")
    model = models.build(run.settings.model, classes)
    shape = tuple(run.origin()["input_shape"])
    traced = trace(model, shape, models.short_name(run.settings.model, classes, shape))
    return load_final(traced, run)


def export(journey: Journey, run: RunFolder, model: nn.Module) -> float:
    """Both networks as ONNX; the pruned one's largest relative difference from PyTorch."""
    journey.report("export", 0, 1, "writing ONNX")
    if journey.is_int8:
        return export_quantised(journey, run, model)
    device = journey.latency.device
    if not run.dense_onnx.exists():
        export_onnx(journey.dense, journey.shape, run.dense_onnx, device.batch, device.precision)
    if device.block is None:
        return export_onnx(model, journey.shape, run.onnx, device.batch, device.precision)
    return _export_sparse(journey, run, model, device.block)


def _export_sparse(journey: Journey, run: RunFolder, model: nn.Module, block: int) -> float:
    """The pruned network twice: of plain ONNX with zeros in it, and on the sparse kernels.

    Both are compared with PyTorch, the second one where the kernels can be built.
    """
    device = journey.latency.device
    difference = export_onnx(model, journey.shape, run.zeros_onnx, device.batch, device.precision)
    partial = run.onnx.with_suffix(".partial.onnx")
    convert(run.zeros_onnx, partial, block)
    if library := journey.kernels:
        sparse = largest_difference(model, partial, journey.shape, library=library)
        require_alike(sparse, partial, run.onnx.name)
        difference = max(difference, sparse)
    os.replace(partial, run.onnx)
    return difference


def measure(journey: Journey, run: RunFolder) -> dict | NotTimed:
    """Paired timing where the table's device is at hand; kept once it was made."""
    if run.measured.exists():
        return read_json(run.measured)
    journey.report("measure", 0, 1, "timing in pairs")
    table = Path(journey.settings.table)
    measured = measure_pair(run.dense_onnx, run.onnx, table)
    if not isinstance(measured, NotTimed):
        if journey.is_int8:  # also over what a user has before quantising
            over = measure_pair(run.dense_fp32_onnx, run.onnx, table)
            measured["over_fp32"] = None if isinstance(over, NotTimed) else over
        write_json(run.measured, measured)
    return measured
