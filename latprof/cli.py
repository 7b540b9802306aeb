"""The `latprof` command."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Annotated

import onnx
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from latprof.compare import compare as compare_files
from latprof.compare import require_batch
from latprof.design import LEVELS
from latprof.detect import gpu_names, this_device
from latprof.errors import DeviceNotHere, OptionError
from latprof.onnx_model import build
from latprof.profile import architectures
from latprof.profile import profile as run_profile
from latprof.validate import validate as run_validate
from lookup_tables.errors import ContractError, DeviceMismatch
from lookup_tables.estimate import LatencyModel
from lookup_tables.network import Architecture, Network, network_names
from lookup_tables.table import DATA, LatencyTable, Plan, Validation

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    help="Measure a device once, into a latency table that pruning reads offline.",
)
console = Console(stderr=True)
DOUBTFUL = 0.05  # RMSPE of a table that better not be trusted

NetworkOption = Annotated[str, typer.Option("--network", help="A shipped network, or a file.json.")]
TableOption = Annotated[Path, typer.Option("--table", help="A table's folder.")]
DeviceOption = Annotated[str, typer.Option(help="This machine's `cpu`, or its name.")]
ThreadsOption = Annotated[int, typer.Option(min=1, help="Threads the runtime may use.")]
BatchOption = Annotated[int, typer.Option(min=1, help="Images per run.")]
SamplesOption = Annotated[int, typer.Option(min=2, help="Unseen architectures to validate on.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Chooses the architectures.")]
PrecisionOption = Annotated[str, typer.Option(help="fp32 (fp16 needs a GPU).")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON to standard output.")]
ArchitectureOption = Annotated[
    Path, typer.Option("--architecture", help='{"widths": {"group": n}, "removed": ["block"]}')
]


def main() -> None:
    """Run the command; a user's mistake is one line on standard error, not a traceback.

    Exit codes: 0 done, 1 wrong input, 2 wrong usage, 3 this machine is not the device asked for.
    """
    try:
        app()
    except (DeviceNotHere, DeviceMismatch) as error:
        sys.exit(_complain(error, 3))
    except ContractError as error:
        sys.exit(_complain(error, 1))


def _complain(error: Exception, code: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return code


@app.command()
def devices(
    table: Annotated[Path | None, typer.Option(help="Show the device of this table.")] = None,
    threads: ThreadsOption = 1,
    batch: BatchOption = 1,
    json_: JsonOption = False,
) -> None:
    """This machine, or the device a table was measured on."""
    device = LatencyTable.open(table).device if table else this_device("cpu", threads, batch)
    facts = device.model_dump(exclude_none=True, exclude={"format"})
    if not table:
        facts["gpus"] = gpu_names()
    if json_:
        print(json.dumps(facts, indent=1))
        return
    for name, value in facts.items():
        print(f"{name:18} {value if value != [] else 'none found'}")


@app.command()
def networks(
    network: Annotated[str | None, typer.Option(help="Show one network.")] = None,
    json_: JsonOption = False,
) -> None:
    """The known networks; for one: its groups with their widths, its blocks and layers."""
    if network is None:
        names = network_names()
        print(json.dumps(names) if json_ else "\n".join(names))
        return
    found = Network.load(network)
    if json_:
        print(found.model_dump_json(indent=1, exclude_defaults=True))
        return
    macs = found.macs(found.widths(found.dense))
    print(f"{found.name}: input {'×'.join(map(str, found.input_shape))}, {macs / 1e6:.1f} M MACs")
    for group in found.groups:
        print(f"group {group.name:24} {', '.join(map(str, group.choices))}")
    for block in found.blocks:
        print(f"block {block.name:24} {', '.join(block.layers)}")
    for layer, spec in found.layer_specs(found.dense):
        print(f"layer {layer.name:24} {spec}")


@app.command()
def profile(
    network: NetworkOption,
    device: DeviceOption = "cpu",
    levels: Annotated[int, typer.Option(help=f"Widths per group: one of {LEVELS}.")] = 8,
    samples: SamplesOption = 40,
    threads: ThreadsOption = 1,
    batch: BatchOption = 1,
    precision: PrecisionOption = "fp32",
    budget: Annotated[str, typer.Option(help="Most seconds of measuring: 90, 90s, 3m.")] = "3m",
    seed: SeedOption = 0,
    out: Annotated[Path | None, typer.Option(help="The table's folder.")] = None,
    dry_run: Annotated[bool, typer.Option(help="Only say what would be measured.")] = False,
    json_: JsonOption = False,
) -> None:
    """Measure a network on this device into a table; continues where it was interrupted."""
    if levels not in LEVELS:
        raise OptionError(f"--levels must be one of {', '.join(map(str, LEVELS))}, got {levels}")
    target = this_device(device, threads, batch, precision)
    folder = out or DATA / target.name
    loaded = Network.load(network)
    budget_s = seconds(budget)
    if dry_run:
        _print_plan(loaded, levels, samples, seed, budget_s, folder)
        return
    try:
        with _progress() as bar:
            task = bar.add_task(f"{loaded.name} on {target.name}", total=1, text="")
            result = run_profile(
                loaded,
                target,
                folder,
                levels=levels,
                samples=samples,
                budget_s=budget_s,
                seed=seed,
                report=lambda done, total, text: bar.update(
                    task, completed=done, total=total, text=text
                ),
            )
    except KeyboardInterrupt:
        print(f"interrupted; the same command continues {folder}", file=sys.stderr)
        raise typer.Exit(130) from None
    _print_validation(loaded.name, folder, result, json_)


@app.command()
def validate(
    table: TableOption,
    network: NetworkOption,
    samples: SamplesOption = 40,
    seed: SeedOption = 1,
    json_: JsonOption = False,
) -> None:
    """Measure unseen architectures and report the table's error; changes nothing."""
    opened = _open_here(table)
    loaded = Network.load(network)
    with _progress() as bar:
        task = bar.add_task(f"validating {loaded.name}", total=samples, text="")
        result = run_validate(
            loaded,
            opened,
            samples,
            seed,
            lambda done, total, text: bar.update(task, completed=done, total=total, text=text),
        )
    _print_validation(loaded.name, table, result, json_)


@app.command()
def predict(
    table: TableOption, network: NetworkOption, architecture: ArchitectureOption,
    json_: JsonOption = False,
) -> None:  # fmt: skip
    """An architecture's latency from the table, with its interval, layer by layer."""
    model = LatencyModel.load(Network.load(network), table)
    asked = Architecture.load(architecture)
    prediction = model.predict_architectures([asked])
    answer = {
        "latency_ms": float(prediction.latency_s[0]) * 1e3,
        "low_ms": float(prediction.low_s[0]) * 1e3,
        "high_ms": float(prediction.high_s[0]) * 1e3,
        "dense_ms": model.dense_s * 1e3,
        "speedup": model.dense_s / float(prediction.latency_s[0]),
        "interpolated": float(prediction.interpolated[0]),
        "layers": [
            {
                "name": layer.name,
                "latency_ms": layer.seconds * 1e3,
                "interpolated": layer.interpolated,
                "layer": layer.spec.to_json(),
            }
            for layer in model.layers(asked)
        ],
    }
    if json_:
        print(json.dumps(answer, indent=1))
        return
    print(
        f"{answer['latency_ms']:.3f} ms (90 %: {answer['low_ms']:.3f} … {answer['high_ms']:.3f}), "
        f"{answer['speedup']:.2f}× of dense {answer['dense_ms']:.3f} ms, "
        f"{answer['interpolated']:.0%} interpolated"
    )
    for layer in model.layers(asked):
        mark = "  interpolated" if layer.interpolated else ""
        print(f"{layer.seconds * 1e6:9.1f} µs  {layer.name:24} {layer.spec}{mark}")


@app.command()
def export(
    network: NetworkOption,
    architecture: ArchitectureOption,
    out: Annotated[Path, typer.Option(help="The ONNX file to write.")],
    batch: BatchOption = 1,
) -> None:
    """Write an architecture as ONNX with random weights, as it is profiled."""
    onnx.save(build(Network.load(network), Architecture.load(architecture), batch), str(out))
    print(out)


@app.command()
def compare(
    dense: Annotated[Path, typer.Argument(help="The reference ONNX file.")],
    pruned: Annotated[Path, typer.Argument(help="The ONNX file that should be faster.")],
    table: Annotated[
        Path | None, typer.Option(help="Refuse unless this machine is the table's device.")
    ] = None,
    threads: ThreadsOption = 1,
    json_: JsonOption = False,
) -> None:
    """Time two ONNX files in pairs on this machine: the measured speedup with its range."""
    device = _open_here(table).device if table else this_device("cpu", threads)
    if table:
        for path in (dense, pruned):
            require_batch(path, device.batch)
    result = compare_files(dense, pruned, device)
    answer = {
        "latency_ms": result.latency_s * 1e3,
        "dense_ms": result.dense_s * 1e3,
        "speedup": result.speedup,
        "speedup_low": result.speedup_low,
        "speedup_high": result.speedup_high,
        "pairs": result.pairs,
    }
    if json_:
        print(json.dumps(answer, indent=1))
        return
    print(
        f"{answer['dense_ms']:.3f} ms → {answer['latency_ms']:.3f} ms: {result.speedup:.3f}× "
        f"({result.speedup_low:.3f} … {result.speedup_high:.3f}) over {result.pairs} pairs"
    )


def seconds(text: str) -> float:
    """Seconds of a duration such as 90, 90s, 3m or 1.5h; raises OptionError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip())
    if not match or float(match[1]) == 0:
        raise OptionError(f"--budget {text!r}: expected a duration such as 90s, 3m or 1h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def _open_here(folder: Path) -> LatencyTable:
    """A table of this very machine; raises DeviceMismatch or DeviceNotHere."""
    table = LatencyTable.open(folder)
    wanted = table.device
    asked = "cpu" if wanted.kind == "cpu" else wanted.name
    device = this_device(asked, wanted.threads, wanted.batch, wanted.precision)
    device.require(wanted, f"table {folder} ({wanted.name})")
    return table


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
        console=console,
    )


def _print_plan(network, levels, samples, seed, budget_s: float, folder: Path) -> None:
    plan = Plan(
        network=network.name, fingerprint=network.fingerprint, levels=levels, unseen=samples,
        seed=seed,
    )  # fmt: skip
    chosen = architectures(network, plan)
    print(
        f"{network.name}: {len(chosen['design'])} pruned networks to measure layer by layer and "
        f"{len(chosen['unseen'])} unseen ones to validate, each beside the dense network, within "
        f"{budget_s:.0f} s of measuring, into {folder}"
    )


def _print_validation(network: str, folder: Path, result: Validation, json_: bool) -> None:
    if json_:
        print(result.model_dump_json(indent=1))
        return
    table = Table(title=f"{network} on {folder.name}: error on {result.architectures} unseen")
    for heading in ("", "RMSPE", "within ±5 %", "rank correlation", "worst"):
        table.add_column(heading, justify="right")
    table.add_row(
        "latency table",
        f"{result.rmspe:.2%}",
        f"{result.within_5_percent:.0%}",
        f"{result.rank_correlation:.3f}",
        f"{result.worst:.1%}",
    )
    table.add_row(
        "FLOPs line", f"{result.flops_rmspe:.2%}", "", f"{result.flops_rank_correlation:.3f}", ""
    )
    Console().print(table)
    print(
        f"{result.measuring_s:.0f} s of measuring, {result.peak_memory_bytes / 2**20:.0f} MiB; "
        f"90 % interval ±{result.interval_90:.1%}; table: {folder}"
    )
    if result.rmspe > DOUBTFUL:
        print(
            "This error is larger than usual: was the machine busy? Profile again when it is idle, "
            "into another folder with --out"
        )
