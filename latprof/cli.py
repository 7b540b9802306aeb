"""The `latprof` command."""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import onnx
import typer

from latprof.compare import compare_files, require_batch
from latprof.design import LEVELS
from latprof.detect import SEARCHES, Usage, gpus, this_device
from latprof.doctor import examine
from latprof.errors import DISTURBED_EXIT, DeviceNotHere, Disturbed, OptionError
from latprof.onnx_model import build
from latprof.onnx_reader import read_onnx
from latprof.options import (
    HOME_HELP,
    ArchitectureOption,
    BatchOption,
    DeviceOption,
    JsonOption,
    NetworkOption,
    PrecisionOption,
    QuietOption,
    SamplesOption,
    SeedOption,
    TableOption,
    ThreadsOption,
    console,
    network_beside,
    open_here,
    progress,
    seconds,
    share,
)
from latprof.profile import SAMPLES, Goal, foresee
from latprof.profile import profile as run_profile
from latprof.repeat import repeat as run_repeat
from latprof.share_cli import (
    card_command,
    list_command,
    merge_command,
    plot_command,
    pull_command,
    push_command,
    verify_command,
)
from latprof.show import (
    difference_as_json,
    print_difference,
    print_explanation,
    print_validations,
    why_it_stopped,
)
from latprof.transfer import SAMPLES as FEW
from latprof.transfer import UNSEEN
from latprof.transfer import transfer as run_transfer
from latprof.validate import validate as run_validate
from lookup_tables.device import NAME, Device
from lookup_tables.diff import compare_tables
from lookup_tables.errors import ContractError, DeviceMismatch
from lookup_tables.estimate import LatencyModel
from lookup_tables.network import Architecture, Network, network_names
from lookup_tables.staircase import Staircase
from lookup_tables.table import LatencyTable, home_of, named_apart

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    help="Measures a device once and writes a latency table, which pruning then reads offline.",
)


@app.callback()
def _common(quiet: QuietOption = False) -> None:
    console.quiet = quiet


def main() -> None:
    """Run the command; a user's mistake is one line on standard error, not a traceback.

    Exit codes: 0 done, 1 wrong input, 2 wrong usage, 3 this machine is not the device asked for,
    4 the error asked for was not reached, 5 two tables differ, 6 this machine is too busy to be
    measured on.
    """
    try:
        app()
    except (DeviceNotHere, DeviceMismatch) as error:
        sys.exit(_complain(error, 3))
    except Disturbed as error:
        sys.exit(_complain(error, DISTURBED_EXIT))
    except ContractError as error:
        sys.exit(_complain(error, 1))
    except OSError as error:  # a full disk, a folder that may not be written
        where = f"{error.filename}: " if error.filename else ""
        sys.exit(
            _complain(f"{where}{error.strerror or error}; nothing that was written is lost", 1)
        )


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)


def _complain(error: Exception | str, code: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return code


@app.command()
def devices(
    table: Annotated[Path | None, typer.Option(help="Show the device of this table.")] = None,
    threads: ThreadsOption = 1,
    batch: BatchOption = 1,
    json_: JsonOption = False,
) -> None:
    """Show this machine, or the device a table was measured on."""
    usage = Usage(threads=threads, batch=batch)
    device = LatencyTable.open(table).device if table else this_device("cpu", usage)
    facts = device.model_dump(exclude_none=True, exclude={"format"})
    if not table:
        facts["gpus"] = [f"{gpu.name} (--device {gpu.slug})" for gpu in gpus()]
    if json_:
        print(json.dumps(facts, indent=1))
        return
    for name, value in facts.items():
        print(f"{name:18} {value if value != [] else 'none found'}")


@app.command()
def doctor(json_: JsonOption = False) -> None:
    """Check whether this machine can be measured on now, and say what to change.

    Exit code 6: not while this lasts.
    """
    findings = examine()
    if json_:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        for finding in findings:
            advice = f"\n{'':30} → {finding.advice}" if finding.advice else ""
            print(f"{finding.state:9} {finding.what:20} {finding.found}{advice}")
    if any(finding.state == "busy" for finding in findings):
        raise typer.Exit(DISTURBED_EXIT)


@app.command()
def networks(
    network: Annotated[str | None, typer.Option(help="Show one network.")] = None,
    json_: JsonOption = False,
) -> None:
    """List the known networks, or show the groups, blocks and layers of one."""
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
    network: Annotated[
        str | None, typer.Option("--network", help="A shipped network, or a file.json.")
    ] = None,
    onnx_file: Annotated[
        Path | None, typer.Option("--onnx", help="Instead of --network: an ONNX file.")
    ] = None,
    device: DeviceOption = "cpu",
    levels: Annotated[
        int, typer.Option(help=f"Widths measured of each group: one of {LEVELS}.")
    ] = 8,
    samples: SamplesOption = SAMPLES,
    threads: ThreadsOption = 1,
    batch: BatchOption = 1,
    precision: PrecisionOption = "fp32",
    cuda_graph: Annotated[
        bool, typer.Option("--cuda-graph", help="On a GPU: run networks as CUDA graphs.")
    ] = False,
    algorithm_search: Annotated[
        str, typer.Option(help=f"On a GPU: cuDNN's algorithm search, {', '.join(SEARCHES)}.")
    ] = SEARCHES[0],
    error: Annotated[
        str | None,
        typer.Option(help="Stop once the error on held-out networks is at most this, as in 2%."),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(help="Stop after 90s, 10m, 1h, earlier calls included."),
    ] = None,
    seed: SeedOption = 0,
    out: Annotated[Path | None, typer.Option(help=HOME_HELP)] = None,
    name: Annotated[
        str | None, typer.Option(help="What to call this device, as in jetson_kitchen_1t.")
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Only say what would be measured.")] = False,
    json_: JsonOption = False,
) -> None:
    """Measure a network on this device into a table; continues where it was interrupted.

    Without --error it measures the whole design. Exit code 4: the error asked for was not reached;
    the table is there all the same and says what it reached.
    """
    if levels not in LEVELS:
        raise OptionError(f"--levels must be one of {', '.join(map(str, LEVELS))}, got {levels}")
    usage = Usage(threads, batch, precision, cuda_graph, algorithm_search)
    target = this_device(device, usage)
    target, folder = _home(target, out, name)
    loaded = _network_or_onnx(network, onnx_file, folder)
    goal = Goal(share(error) if error else None, seconds(budget) if budget else math.inf, samples)
    if dry_run:
        _print_plan(loaded, target, folder, goal, levels=levels, seed=seed)
        return
    with _interruptible(folder), progress() as bar:
        task = bar.add_task(f"{loaded.name} on {target.name}", total=1, text="")
        result = run_profile(
            loaded,
            target,
            folder,
            levels=levels,
            goal=goal,
            seed=seed,
            report=lambda done, total, text: bar.update(
                task, completed=done, total=total, text=text
            ),
            warn=_warn,
        )
    print_validations(loaded.name, folder, [result.menu, result.any], json_)
    if not json_:
        if onnx_file is not None:
            _say_how_alike(loaded, target, onnx_file, folder)
        print(why_it_stopped(result, goal))
    if goal.error is not None and not result.reached(goal.error):
        raise typer.Exit(4)


@app.command()
def validate(
    table: TableOption,
    network: NetworkOption,
    samples: Annotated[
        int,
        typer.Option(
            min=2, help="Held-out architectures: half of candidate widths, half of any width."
        ),
    ] = 40,
    seed: SeedOption = 1,
    json_: JsonOption = False,
) -> None:
    """Measure held-out architectures and report the table's error. Changes nothing."""
    opened = open_here(table)
    loaded = _network(network, table)
    with progress() as bar:
        task = bar.add_task(f"validating {loaded.name}", total=samples, text="")
        result = run_validate(
            loaded,
            opened,
            samples,
            seed,
            lambda done, total, text: bar.update(task, completed=done, total=total, text=text),
        )
    print_validations(loaded.name, table, result, json_)


@app.command()
def predict(
    table: TableOption, network: NetworkOption, architecture: ArchitectureOption,
    json_: JsonOption = False,
) -> None:  # fmt: skip
    """Predict an architecture's latency, with its interval, layer by layer."""
    model = _model(network, table)
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
def steps(
    table: TableOption,
    network: NetworkOption,
    group: Annotated[str | None, typer.Option(help="Show every width of one group.")] = None,
    json_: JsonOption = False,
) -> None:
    """Show in which steps the device takes channels, and the candidate widths of every group."""
    model = _model(network, table)
    loaded, stairs = model.network, Staircase(model)
    found = {kind: step._asdict() for kind, step in model.steps.items()}
    if group is not None:
        if group not in loaded.group:
            raise OptionError(f"--group {group!r}: {loaded.name} has {', '.join(loaded.group)}")
        rows = stairs.steps(loaded.group[group])
        if json_:
            print(json.dumps([asdict(row) for row in rows], indent=1))
            return
        for row in rows:
            better = f"no faster than {row.better}" if row.better else ""
            print(f"{row.width:6} {row.seconds * 1e3:9.3f} ms  {'edge' if row.edge else better}")
        return
    menu = {g.name: list(g.choices) for g in stairs.menu().groups}
    if json_:
        print(json.dumps({"steps": found, "menu": menu}, indent=1))
        return
    for kind, step in found.items():
        print(
            f"{kind:18} blocks of {step['block']} channels; of a block and more, widths that are "
            f"multiples of {step['alignment']} run alike"
        )
    print("widths worth choosing (right edges of the steps):")
    for name, widths in menu.items():
        print(f"  {name:24} {', '.join(map(str, widths))}")


@app.command()
def explain(
    table: TableOption,
    network: NetworkOption,
    architecture: ArchitectureOption,
    top: Annotated[int, typer.Option(min=1, help="How many layers and groups to show.")] = 8,
    json_: JsonOption = False,
) -> None:
    """Say why an architecture is not faster, and which widths would help."""
    model = _model(network, table)
    asked = Architecture.load(architecture)
    stairs = Staircase(model)
    layers = stairs.layers(asked)
    wider, narrower = stairs.advice(asked)
    now_s = model.latency_s(asked)
    if json_:
        answer = {
            "latency_ms": now_s * 1e3,
            "speedup": model.dense_s / now_s,
            "layers": [
                {
                    "name": layer.name,
                    "latency_ms": layer.seconds * 1e3,
                    "dense_ms": layer.dense_s and layer.dense_s * 1e3,
                    "macs_share": layer.macs_share,
                    "bound_by": layer.binding,
                    "lost_ms": layer.lost_s * 1e3,
                }
                for layer in layers
            ],
            "wider_and_no_slower": [asdict(advice) for advice in wider],
            "narrower_and_faster": [asdict(advice) for advice in narrower],
        }
        print(json.dumps(answer, indent=1))
        return
    print_explanation(model, asked, layers, wider[:top], narrower[:top], top)


@app.command()
def repeat(
    table: TableOption,
    network: NetworkOption,
    times: Annotated[int, typer.Option(min=2, help="How many fresh processes.")] = 5,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the tables, for an interrupted call to continue."),
    ] = None,
    samples: SamplesOption = SAMPLES,
    budget: Annotated[str | None, typer.Option(help="Time for each table: 90s, 10m, 1h.")] = None,
    json_: JsonOption = False,
) -> None:
    """Rebuild a table in fresh processes and report how well it repeats."""
    opened = open_here(table)
    network = network_beside(table, network)
    loaded = Network.load(network)
    folder = out or table / "repeats"
    options = ["--samples", str(samples), *(["--budget", budget] if budget else [])]
    with progress() as bar:
        task = bar.add_task(f"repeating {loaded.name}", total=times, text="")
        result = run_repeat(
            loaded, opened, times, folder, options, network,
            lambda done, total, text: bar.update(task, completed=done, total=total, text=text),
        )  # fmt: skip
    if json_:
        print(result.model_dump_json(indent=1))
        return
    for what, spread in (("entry", result.entries), ("predicted speedup", result.predictions)):
        print(
            f"{spread.count} times {what}: spread {spread.median_spread:.2%} in the median, "
            f"{spread.p95_spread:.2%} for 95 %, {spread.worst_spread:.1%} at worst"
        )
    print(f"entries that differ beyond noise from the first table's: {sum(result.flagged)}")


@app.command()
def transfer(
    source: Annotated[Path, typer.Option("--from", help="The table of another device.")],
    network: NetworkOption,
    out: Annotated[Path | None, typer.Option(help="The new table's folder.")] = None,
    samples: Annotated[int, typer.Option(min=12, help="Networks measured layer by layer.")] = FEW,
    unseen: Annotated[
        int, typer.Option(min=4, help="How many held-out networks of each kind.")
    ] = UNSEEN,
    device: DeviceOption = "cpu",
    threads: ThreadsOption = 1,
    batch: BatchOption = 1,
    precision: PrecisionOption = "fp32",
    json_: JsonOption = False,
) -> None:
    """Make a table for this device from few measurements and the table of a similar device.

    What was measured here decides, the other table fills in. `latprof profile` into the same
    folder makes it a whole one.
    """
    target = this_device(device, Usage(threads, batch, precision))
    target, folder = _home(target, out)
    loaded = _network(network, source)
    with _interruptible(folder), progress() as bar:
        task = bar.add_task(f"{loaded.name} on {target.name}", total=1, text="")
        result = run_transfer(
            loaded, LatencyTable.open(source), target, folder,
            samples=samples, unseen=unseen,
            report=lambda done, total, text: bar.update(
                task, completed=done, total=total, text=text
            ),
            warn=_warn,
        )  # fmt: skip
    print_validations(loaded.name, folder, [result.menu, result.any], json_)


@app.command()
def diff(
    first: Annotated[Path, typer.Argument(help="A table's folder.")],
    second: Annotated[Path, typer.Argument(help="Another.")],
    network: Annotated[
        str | None,
        typer.Option(help="Only this network, not all of both tables."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many entries to show.")] = 10,
    json_: JsonOption = False,
) -> None:
    """Show what differs between two tables beyond noise. Exit code 5 if anything does."""
    tables = LatencyTable.open(first), LatencyTable.open(second)
    common = sorted(set(tables[0].networks()) & set(tables[1].networks()))
    if not common:
        raise OptionError(f"{first} and {second} hold no network in common")
    is_file = network is not None and Path(network).suffix == ".json"
    named = Network.load(network).name if is_file else network
    if named is not None and named not in common:
        raise OptionError(f"--network {network}: both tables hold {', '.join(common)}")
    asked = [network] if network else common
    found = {}
    for name in asked:
        loaded = _network_of(tables, name)
        if loaded is None:
            print(f"{name}: not compared, its network file is missing", file=sys.stderr)
        else:
            found[loaded.name] = compare_tables(loaded, *tables)
    if not found:
        raise OptionError("nothing was compared: name the network file with --network")
    if json_:
        print(json.dumps({name: difference_as_json(d) for name, d in found.items()}, indent=1))
    else:
        for name, difference in found.items():
            print_difference(name, difference, top)
    if any(difference.changed or difference.whole_differs for difference in found.values()):
        raise typer.Exit(5)


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
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Threads of the runtime. Default: 1, or the table's."),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Time two ONNX files in pairs on this machine: the measured speedup with its range."""
    device = open_here(table).device if table else this_device("cpu", Usage(threads or 1))
    if table:
        if threads not in (None, device.threads):
            raise OptionError(f"--threads {threads}: the table's device has {device.threads}")
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
        "sessions": result.sessions,
        "quiet_sessions": result.quiet_sessions,
        "unselected_speedup": result.unselected_speedup,
        "slow_phase": result.slow_phase,
        "expected_low": result.expected_low,
        "expected_high": result.expected_high,
    }
    if json_:
        print(json.dumps(answer, indent=1))
        return
    print(
        f"{answer['dense_ms']:.3f} ms → {answer['latency_ms']:.3f} ms: {result.speedup:.3f}× "
        f"({result.speedup_low:.3f} … {result.speedup_high:.3f}) over {result.pairs} pairs"
    )
    if result.slow_phase:
        print(
            f"measured in a slow phase of this machine: {result.slow_phase}. A quiet one would be "
            f"expected to give {result.expected_low:.3f} … {result.expected_high:.3f}×"
        )
    elif disturbed := result.sessions - result.quiet_sessions:
        print(
            f"{disturbed} of {result.sessions} sessions were disturbed and do not count; with them "
            f"it would be {result.unselected_speedup:.3f}×"
        )


app.command("push")(push_command)
app.command("pull")(pull_command)
app.command("list")(list_command)
app.command("verify")(verify_command)
app.command("merge")(merge_command)
app.command("card")(card_command)
app.command("plot")(plot_command)


@contextmanager
def _interruptible(folder: Path) -> Iterator[None]:
    """Ctrl-C says how to continue and ends with the shell's usual code."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"interrupted; the same command continues {folder}", file=sys.stderr)
        raise typer.Exit(130) from None


def _home(target: Device, out: Path | None, name: str | None = None) -> tuple[Device, Path]:
    """Where the device's rows go; without --out past the tables of others of the same name.

    `name`: what the user calls the device; its table is that one, or none yet.
    """
    if name is not None:
        if not NAME.fullmatch(name):
            raise OptionError(
                f"--name {name!r}: expected small letters, digits, '_', '-' and '.', as in zen4_1t"
            )
        return target.model_copy(update={"name": name}), out or home_of(name)
    if out is not None:
        return target, out
    named, differing = named_apart(target)
    home = home_of(named.name)
    if differing:
        what = "; ".join(f"{field}: {b} there, {a} here" for field, (a, b) in differing.items())
        print(
            f"{home_of(target.name)} is of another device ({what}): using {home}", file=sys.stderr
        )
    return named, home


def _network_or_onnx(network: str | None, file: Path | None, table: Path) -> Network:
    if (network is None) == (file is None):
        raise OptionError("give either --network or --onnx")
    return _network(network, table) if file is None else read_onnx(file)


def _network(name: str, table: Path) -> Network:
    """The network of that name beside a table's rows, else a shipped one or a file."""
    return Network.load(network_beside(table, name))


def _model(name: str, folder: Path) -> LatencyModel:
    """What a table predicts of a network, by its own rows or those of one for more classes."""
    table, network = LatencyTable.open(folder), _network(name, folder)
    priced = table.pricing(network)
    if priced.fingerprint != network.fingerprint:
        print(
            f"{folder} has {priced.name}, the same network for more classes than {network.name}: "
            "its last layer is priced a little too high",
            file=sys.stderr,
        )
    return LatencyModel(priced, table)


def _network_of(tables: Sequence[LatencyTable], name: str) -> Network | None:
    """The network of that name beside one of the tables' rows, or shipped, or in a file."""
    for table in tables:
        if table.network_path(name).exists():
            return Network.load(table.network_path(name))
    if Path(name).suffix == ".json" or name in network_names():
        return Network.load(name)
    return None


def _say_how_alike(network: Network, device: Device, file: Path, folder: Path) -> None:
    """The file itself beside the network that stood in for it: the table's trust in one figure."""
    network_file = LatencyTable.open(folder).network_path(network.name)
    if device.batch != 1 or device.precision != "fp32":
        print(f"as a network file: {network_file}")
        return
    try:
        with tempfile.TemporaryDirectory(prefix="latprof-") as place:
            stand_in = Path(place) / "dense.onnx"
            onnx.save(build(network, network.dense, device.batch, device.precision), str(stand_in))
            result = compare_files(stand_in, file, device)
    except ContractError as error:  # the table is finished all the same
        print(f"the file itself could not be timed ({error}); as a network file: {network_file}")
        return
    print(
        f"{file} itself takes {1 / result.speedup:.3f}× of the network that was profiled in its "
        f"place; as a network file: {network_file}"
    )


def _print_plan(network: Network, device: Device, folder: Path, goal: Goal, **how: int) -> None:
    found = foresee(network, device, folder, goal=goal, **how)
    if any(found.there):
        designed, judged = found.there
        print(f"{folder} has {designed} of the pruned and {judged} of the unseen ones already.")
    if found.done:
        print(f"{network.name} on {device.name}: nothing is left to measure.")
        return
    if not any(found.missing) or found.seconds == 0:
        left = "what was disturbed is repeated"
        if any(found.missing):
            left = "the budget is spent"
        elif goal.error:
            left = f"more networks, until an error of {goal.error:.1%} is reached"
        print(f"{network.name} on {device.name}: {left}.")
        return
    designed, judged = found.missing
    print(
        f"{network.name} on {device.name}: {designed} pruned networks to measure layer by layer "
        f"and {judged} unseen ones to judge by, each beside the dense network, into {folder}.\n"
        f"About {found.seconds:.0f} s, by the dense network's own time"
        + (f"; stops earlier at an error of {goal.error:.1%}" if goal.error else "")
    )
