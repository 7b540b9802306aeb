"""The `pruner` command."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from lookup_tables.errors import ContractError
from pruner import models
from pruner.accuracy import accuracy, onnx_accuracy
from pruner.compare import Member, compare_methods
from pruner.compare_report import asked
from pruner.completion import too_coupled
from pruner.compute import keep_freed_memory
from pruner.criteria import CRITERIA, DYNAMIC
from pruner.data import NORMALISATIONS, load_data, require_fit
from pruner.env import ENVIRONMENTS
from pruner.errors import RunError, TraceError
from pruner.export import export_onnx
from pruner.finetune import Recipe, fine_tune
from pruner.methods import AGENTS, METHODS
from pruner.origin import digests
from pruner.prune import load_run
from pruner.prune import prune as run_prune
from pruner.report import result_rows
from pruner.rewards import REWARDS
from pruner.run_folder import WIDTHS_ONLY, RunFolder, Settings
from pruner.trace import trace as trace_model
from pruner.weights import SAFETENSORS, load_weights, made_by, save_weights

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    help="Finds, trains and exports a smaller network that meets a latency budget, offline.",
)
console = Console(stderr=True)

ModelOption = Annotated[
    str, typer.Option("--model", help=f"{', '.join(models.MODELS)}, or file.py:factory.")
]
DataOption = Annotated[
    str, typer.Option("--data", help="digits, cifar10, imagenet, food101, or file.py:function.")
]
DataDirOption = Annotated[Path | None, typer.Option("--data-dir", help="Where the data set is.")]
NormalisationOption = Annotated[
    str,
    typer.Option(
        help="Of cifar10: by whose means and deviations its images are normalised, "
        f"{' or '.join(NORMALISATIONS)}; as the weights were trained. The published ResNets were "
        "by ImageNet's."
    ),
]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of everything random.")]
WeightsOption = Annotated[Path, typer.Option(help="The trained weights: .safetensors, .th or .pt.")]
TableOption = Annotated[Path, typer.Option(help="The latency table's folder.")]
CriterionOption = Annotated[
    str,
    typer.Option(help=f"Pruning criterion: {', '.join((*CRITERIA, DYNAMIC))}."),
]
DepthOption = Annotated[bool, typer.Option("--depth", help="Let the search remove whole blocks.")]
KeepOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Name of a layer that keeps all its channels. Repeatable. With --depth its block may "
        "still go."
    ),
]
EpisodesOption = Annotated[
    int,
    typer.Option(
        min=1,
        help="How many candidates the search may score. uniform, magnitude and knapsack score one.",
    ),
]
EpochsOption = Annotated[int, typer.Option(min=0, help="Epochs of fine-tuning.")]
BatchOption = Annotated[int, typer.Option(min=1, help="Images per training step.")]
RateOption = Annotated[
    float,
    typer.Option("--learning-rate", "--rate", help="Peak learning rate."),
]
DecayOption = Annotated[
    float, typer.Option(min=0, help="Weight decay. BatchNorm and biases have none.")
]
ScoreImagesOption = Annotated[
    int, typer.Option(min=1, help="How many held-out images score a candidate.")
]
RecalibrationImagesOption = Annotated[
    int, typer.Option(min=1, help="How many training images recalibrate BatchNorm.")
]
SmoothingOption = Annotated[
    float, typer.Option("--label-smoothing", min=0, help="Label smoothing, a share of 1.")
]
DistillOption = Annotated[
    float, typer.Option(min=0, max=1, help="Distillation weight of the original network's outputs.")
]
PatienceOption = Annotated[
    int,
    typer.Option(
        min=0,
        help="Stop after this many epochs without progress on held-out images. 0: never, because a "
        "cosine schedule gains most at its end.",
    ),
]
RegenerateOption = Annotated[
    float,
    typer.Option(min=0, max=1, help="Of --criterion dynamic: share of filters that may return."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON to standard output.")]


@app.callback()
def _common(
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress; answers and errors only.")
    ] = False,
) -> None:
    console.quiet = quiet
    keep_freed_memory()


def main() -> None:
    """Run the command; a user's mistake is one line on standard error, not a traceback."""
    try:
        app()
    except ContractError as error:
        sys.exit(_complain(error))
    except OSError as error:  # a full disk, a folder that may not be written
        where = f"{error.filename}: " if error.filename else ""
        sys.exit(_complain(f"{where}{error.strerror or error}; nothing that was written is lost"))


def _complain(error: Exception | str) -> int:
    print(f"error: {error}", file=sys.stderr)
    return 1


@app.command()
def trace(
    model: ModelOption,
    out: Annotated[Path, typer.Option(help="The network file to write.")],
    weights: Annotated[Path | None, typer.Option(help="Weights to check.")] = None,
    input_: Annotated[
        str | None,
        typer.Option("--input", help="C×H×W, such as 3x32x32. Shipped models know theirs."),
    ] = None,
    classes: Annotated[
        int | None, typer.Option(min=1, help="Number of classes of a shipped model.")
    ] = None,
) -> None:
    """Turn a PyTorch model into a network file: its layers, channel groups and removable blocks."""
    if classes is not None and model not in models.MODELS:
        raise RunError(f"--classes: {model} says itself how many it tells apart; leave it out")
    shapes_only = weights is None and model in models.MODELS  # a user's own may compute numbers
    with torch.device("meta" if shapes_only else "cpu"):
        built = models.build(model, classes)
    if weights is not None:
        load_weights(built, weights)
    name = models.short_name(model, classes)
    network = trace_model(built, _shape(model, input_), name).network
    network.save(out)
    print(
        f"{out}: {len(network.layers)} layers, {len(network.groups)} groups, "
        f"{len(network.blocks)} removable blocks"
    )
    stay = [layer.name for layer in network.layers if layer.channels and not layer.group]
    if stay:
        print(f"keep their width, as the output and what meets grouped layers do: {_some(stay)}")
    if coupled := too_coupled(network):
        print(f"to be pruned later: {coupled}")


@app.command()
def train(
    model: ModelOption,
    data: DataOption,
    out: Annotated[Path, typer.Option(help="The safetensors file to write.")],
    data_dir: DataDirOption = None,
    normalisation: NormalisationOption = "imagenet",
    weights: Annotated[
        Path | None,
        typer.Option(help="Start from these weights. A last layer for other classes starts anew."),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training images.")] = 30,
    batch: BatchOption = 128,
    rate: RateOption = 0.1,
    weight_decay: DecayOption = 5e-4,
    label_smoothing: SmoothingOption = 0.0,
    patience: PatienceOption = 0,
    half: Annotated[bool, typer.Option("--half", help="Store the weights as fp16.")] = False,
    seed: SeedOption = 0,
) -> None:
    """Train a model, from scratch or from weights; continues where it was interrupted."""
    if out.suffix != SAFETENSORS:
        raise RunError(f"--out {out}: weights are written as safetensors; end it in {SAFETENSORS}")
    recipe = Recipe(
        epochs=epochs, batch=batch, rate=rate, weight_decay=weight_decay,
        label_smoothing=label_smoothing, patience=patience, seed=seed,
    )  # fmt: skip
    of = data if normalisation == "imagenet" else f"{data} normalised by {normalisation}"
    if out.exists():
        before, now = made_by(out), _training_of(model, of, weights, recipe, half)
        if before not in (None, now):
            raise RunError(
                f"{out} is of another training ({before}; now {now}). "
                "Give another --out, or delete it"
            )
        print(f"{out} exists already")
        return
    images = load_data(data, data_dir, normalisation=normalisation)
    torch.manual_seed(seed)
    built = models.build(model, images.classes)
    if weights is not None:
        load_weights(built, weights, but_head=True)
    require_fit(built, models.input_shape(model) or images.shape, images)
    out.parent.mkdir(parents=True, exist_ok=True)
    checkpoint = out.with_suffix(".checkpoint.pt")
    with _interruptible(out), _progress() as bar:
        task = bar.add_task(f"training {model}", total=1, text="")
        fine_tune(
            built,
            images.train,
            recipe,
            checkpoint,
            report=lambda step, total, text: bar.update(
                task, completed=step, total=total, text=text
            ),
            held_out=images.held_out,
            begun_from=_begun_from(model, of, weights),
        )
    save_weights(built, out, half, _training_of(model, of, weights, recipe, half))
    checkpoint.unlink(missing_ok=True)
    print(f"{out}: {accuracy(built, images.held_out):.2%} on held-out training images")


def _begun_from(model: str, data: str, weights: Path | None) -> str:
    """What a training begins from: files by what they hold, wherever they lie."""
    named, of = ("".join(name.rpartition(":")[1:]) for name in (model, data))
    found = [f"{name} {sha256[:12]}" for name, sha256 in digests(model, data, weights).items()]
    return f"{named} on {of}, {', '.join(found) or 'from scratch'}"


def _training_of(model: str, data: str, weights: Path | None, recipe: Recipe, half: bool) -> str:
    """What decides the weights that `pruner train` writes."""
    return f"{_begun_from(model, data, weights)}, {recipe}{', fp16' if half else ''}"


@app.command()
def prune(
    model: ModelOption,
    weights: WeightsOption,
    data: DataOption,
    table: TableOption,
    out: Annotated[Path, typer.Option(help="The run's folder. An existing one is continued.")],
    data_dir: DataDirOption = None,
    normalisation: NormalisationOption = "imagenet",
    speedup: Annotated[float | None, typer.Option(help="Budget: this many times faster.")] = None,
    latency_ms: Annotated[
        float | None, typer.Option(help="Latency budget in milliseconds.")
    ] = None,
    architecture: Annotated[
        Path | None,
        typer.Option(
            help="Cut and train the network of this file, such as another run's architecture.json. "
            "Nothing is searched, and no budget is needed."
        ),
    ] = None,
    method: Annotated[str, typer.Option(help=f"Search method: {', '.join(METHODS)}.")] = "thompson",
    criterion: CriterionOption = "l1",
    regenerate: RegenerateOption = 0.5,
    reconstruct: Annotated[
        bool, typer.Option(help="Refit weights to the channels that are left, before fine-tuning.")
    ] = True,
    depth: DepthOption = False,
    widths: Annotated[
        bool,
        typer.Option(help="Let the search narrow layers, not only remove blocks."),
    ] = True,
    keep_width: KeepOption = None,
    reward: Annotated[
        str, typer.Option(help=f"Reward of --method rl: {', '.join(REWARDS)}.")
    ] = "error_sensitivity",
    agent: Annotated[
        str, typer.Option(help=f"Agent of --method rl: {', '.join(AGENTS)}.")
    ] = "ddpg",
    actions: Annotated[
        str, typer.Option(help=f"What the agent of --method rl decides: {', '.join(ENVIRONMENTS)}.")
    ] = "widths",
    sensitivity: Annotated[
        bool,
        typer.Option(
            help="Whether the agent of --method rl knows each layer's latency sensitivity."
        ),
    ] = True,
    episodes: EpisodesOption = 300,
    epochs: EpochsOption = 40,
    batch: BatchOption = 128,
    learning_rate: RateOption = 0.05,
    weight_decay: DecayOption = 5e-4,
    label_smoothing: SmoothingOption = 0.0,
    distill: DistillOption = 0.5,
    patience: PatienceOption = 0,
    score_images: ScoreImagesOption = 1500,
    recalibration_images: RecalibrationImagesOption = 1000,
    seed: SeedOption = 0,
    json_: JsonOption = False,
) -> None:
    """Search, cut, fine-tune, export and check a smaller network within a latency budget."""
    settings = Settings.of(
        model=model, weights=str(weights), data=data, table=str(table), speedup=speedup,
        data_dir=str(data_dir) if data_dir else None, normalisation=normalisation,
        latency_ms=latency_ms, method=method,
        criterion=criterion, regenerate=regenerate, reconstruct=reconstruct, depth=depth,
        architecture=str(architecture) if architecture else None, widths=widths,
        keep_width=tuple(keep_width or ()), reward=reward, agent=agent, actions=actions,
        sensitivity=sensitivity, episodes=episodes, epochs=epochs, batch=batch,
        learning_rate=learning_rate, weight_decay=weight_decay,
        label_smoothing=label_smoothing, distill=distill, patience=patience,
        score_images=score_images, recalibration_images=recalibration_images, seed=seed,
    )  # fmt: skip
    if settings.depth and settings.method in WIDTHS_ONLY:
        raise RunError(f"--depth: {settings.method} never removes a block; leave it out")
    with _interruptible(out), _progress() as bar:
        result = run_prune(settings, out, _Stages(bar))
    _print_result(result, out, json_)


@app.command()
def compare(
    model: ModelOption,
    weights: WeightsOption,
    data: DataOption,
    table: TableOption,
    out: Annotated[Path, typer.Option(help="The comparison's folder; it may be continued.")],
    speedup: Annotated[
        list[float] | None, typer.Option(help="Latency budget, this many times faster. Repeatable.")
    ] = None,
    latency_ms: Annotated[
        list[float] | None, typer.Option(help="Latency budget in milliseconds. Repeatable.")
    ] = None,
    data_dir: DataDirOption = None,
    normalisation: NormalisationOption = "imagenet",
    method: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Search method. Repeatable; default: all of {', '.join(METHODS)}. A method's own "
            "settings follow a colon, as in rl:agent=td3,reward=error."
        ),
    ] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Seed. Repeatable.")] = None,
    member: Annotated[
        list[str] | None,
        typer.Option(
            help="A smaller network of the family: NAME=WEIGHTS, or NAME=ACCURACY as published; "
            "NAME may be a FILE.py:FUNCTION."
        ),
    ] = None,
    criterion: CriterionOption = "l1",
    depth: DepthOption = False,
    keep_width: KeepOption = None,
    episodes: EpisodesOption = 300,
    epochs: EpochsOption = 40,
    batch: BatchOption = 128,
    learning_rate: RateOption = 0.05,
    weight_decay: DecayOption = 5e-4,
    label_smoothing: SmoothingOption = 0.0,
    distill: DistillOption = 0.5,
    patience: PatienceOption = 0,
    score_images: ScoreImagesOption = 1500,
    recalibration_images: RecalibrationImagesOption = 1000,
    json_: JsonOption = False,
) -> None:
    """Prune by several methods within the same budgets; a table and a picture show all of them."""
    if not speedup and not latency_ms:
        raise RunError("give at least one budget: --speedup or --latency-ms")
    base = Settings.of(
        model=model, weights=str(weights), data=data, table=str(table),
        speedup=speedup[0] if speedup else None,
        latency_ms=None if speedup else latency_ms[0],
        data_dir=str(data_dir) if data_dir else None, normalisation=normalisation,
        criterion=criterion, depth=depth,
        keep_width=tuple(keep_width or ()), episodes=episodes, epochs=epochs, batch=batch,
        learning_rate=learning_rate, weight_decay=weight_decay,
        label_smoothing=label_smoothing, distill=distill, patience=patience,
        score_images=score_images, recalibration_images=recalibration_images,
    )  # fmt: skip
    members = [Member.parse(text) for text in member or []]
    with _interruptible(out), _progress() as bar:
        found = compare_methods(
            base, method or list(METHODS), speedup or [], seed or [0], members, out, _Stages(bar),
            latency_ms or [],
        )  # fmt: skip
    for row in found["rows"]:
        if "refused" in row:
            print(f"{row['method']} at {asked(row)}: {row['refused']}", file=sys.stderr)
    made = [row for row in found["rows"] if "dense_accuracy" in row]
    if not made:
        raise RunError("no method met any of the budgets")
    dense = made[0]["dense_accuracy"]
    if json_:
        print(json.dumps(found, indent=1))
        return
    _print_comparison(found["summary"], dense)


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


@app.command()
def evaluate(
    data: DataOption,
    data_dir: DataDirOption = None,
    normalisation: NormalisationOption = "imagenet",
    model: Annotated[str | None, typer.Option(help="Model name; needs --weights.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Its weights.")] = None,
    run: Annotated[Path | None, typer.Option(help="A run's folder, not --model.")] = None,
    onnx: Annotated[bool, typer.Option(help="Export too, and evaluate the ONNX file.")] = True,
    json_: JsonOption = False,
) -> None:
    """Measure accuracy on the test set, in PyTorch and after export to ONNX."""
    others = (model, weights)
    if not (all(others) if run is None else not any(others)):
        raise RunError("give either --model with --weights, or --run")
    if run is not None and RunFolder.open(run).settings.data == data:
        normalisation = RunFolder.open(run).settings.normalisation
    images = load_data(data, data_dir, normalisation=normalisation)
    if run is not None:
        built, shape = load_run(run), tuple(RunFolder.open(run).origin()["input_shape"])
    else:
        built = models.build(model, images.classes)
        load_weights(built, weights)
        shape = models.input_shape(model) or images.shape
    require_fit(built, shape, images)
    answer = {"accuracy": accuracy(built, images.test), "test_images": len(images.test)}
    if onnx:
        folder = Path(run) if run else None
        answer["onnx_accuracy"] = _onnx_accuracy(built, shape, images.test, folder)
    if json_:
        print(json.dumps(answer, indent=1))
        return
    print(f"{answer['accuracy']:.2%} of {answer['test_images']} test images")
    if onnx:
        print(f"{answer['onnx_accuracy']:.2%} after export to ONNX")


@app.command()
def export(
    run: Annotated[Path, typer.Option(help="A run's folder, fine-tuned.")],
    out: Annotated[Path, typer.Option(help="The .onnx file to write.")],
    batch: Annotated[int, typer.Option(min=1, help="Images per inference.")] = 1,
    half: Annotated[bool, typer.Option("--half", help="Half precision.")] = False,
) -> None:
    """Export a run's network as ONNX for another batch size, or in half precision."""
    if out.suffix != ".onnx":
        raise RunError(f"--out {out}: networks are written as ONNX; end it in .onnx")
    shape = tuple(RunFolder.open(run).origin()["input_shape"])
    difference = export_onnx(load_run(run), shape, out, batch, "fp16" if half else "fp32")
    print(f"{out}: {batch} images at once, differs from PyTorch by {difference:.1e} at most")


def _onnx_accuracy(model, shape, images, folder: Path | None) -> float:
    if folder is not None and RunFolder.open(folder).onnx.exists():
        return onnx_accuracy(RunFolder.open(folder).onnx, images)
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "model.onnx"
        export_onnx(model, shape, path)
        return onnx_accuracy(path, images)


def _some(names: list[str], shown: int = 8) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def _shape(model: str, text: str | None) -> tuple[int, int, int]:
    known = models.input_shape(model)
    if text is None:
        if known is None:
            raise TraceError(f"--input is needed for {model}, such as --input 3x32x32")
        return known
    parts = text.lower().replace("×", "x").split("x")
    if len(parts) != 3 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise TraceError(f"--input {text!r}: expected C×H×W, such as 3x32x32")
    return tuple(int(part) for part in parts)


@contextmanager
def _interruptible(out: Path) -> Iterator[None]:
    """Ctrl-C says how to continue and ends with the shell's usual code."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"interrupted; the same command continues {out}", file=sys.stderr)
        raise typer.Exit(130) from None


WHOLE = "compare"  # the step that all others are part of


class _Stages:
    """Progress of a journey: one bar a step; a comparison's steps begin anew for every run."""

    def __init__(self, bar: Progress) -> None:
        self._bar, self._tasks, self._now = bar, {}, ""

    def __call__(self, step: str, done: int, total: int, text: str) -> None:
        if step not in self._tasks:
            self._tasks[step] = self._bar.add_task(step, total=total, text=text)
        elif step not in (self._now, WHOLE):
            self._bar.reset(self._tasks[step], total=total, text=text)
        if step != self._now and self._now not in ("", WHOLE):
            ended = self._tasks[self._now]
            self._bar.update(ended, completed=self._bar.tasks[ended].total)
        self._now = step
        self._bar.update(self._tasks[step], completed=done, total=total, text=text)


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description:10}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
        console=console,
    )


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
    if result.get("stands_in"):
        print(f"predicted by {result['priced_by']}, for more classes: this one takes no longer")
    if result.get("table_error", {}) is None:  # unknown of earlier versions' results
        print(f"{settings['table']}: its profile has not finished, so the prediction is a guess")
    if result["measured"] is None:
        print(f"not measured: {result['not_measured_because']}")
        print(f"on the device: latprof compare {out}/dense.onnx {out}/model.onnx --table TABLE")
    print(f"{out}: model.onnx, model.safetensors, architecture.json, result.json, report.html")
