"""Commands that measure: `latprof profile`, `validate`, `repeat`, `transfer` and `compare`."""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import onnx
import typer

from latprof import OptionError
from latprof.cli.options import (
    HOME_HELP,
    BatchOption,
    DeviceOption,
    JsonOption,
    NetworkOption,
    PrecisionOption,
    SamplesOption,
    SeedOption,
    TableOption,
    ThreadsOption,
    network_beside,
    network_of,
    open_here,
    progress,
    runtimes_told,
    seconds,
    share,
)
from latprof.cli.show import print_validations, why_it_stopped
from latprof.kernels import BLOCKS
from latprof.onnx.reader import is_half, read_onnx
from latprof.onnx.writer import build
from latprof.profile.compare import compare_files, require_batch
from latprof.profile.design import LEVELS
from latprof.profile.foresee import foresee
from latprof.profile.journey import SAMPLES, Goal
from latprof.profile.journey import profile as run_profile
from latprof.profile.judge import validate as run_validate
from latprof.profile.repeat import repeat as run_repeat
from latprof.profile.transfer import SAMPLES as FEW
from latprof.profile.transfer import UNSEEN
from latprof.profile.transfer import transfer as run_transfer
from latprof.runtimes.base import (
    BLOCK,
    BLOCK_SPARSE,
    ONNX_RUNTIME,
    SEARCHES,
    SPARSE_RUNTIME,
    Usage,
)
from latprof.runtimes.here import this_device
from lookup_tables.device import NAME, Device
from lookup_tables.errors import ContractError
from lookup_tables.network import Network
from lookup_tables.table.home import home_of, named_apart
from lookup_tables.table.store import LatencyTable


def profile(
    network: Annotated[
        str | None, typer.Option("--network", help="A shipped network, or a file.json.")
    ] = None,
    onnx_file: Annotated[
        Path | None, typer.Option("--onnx", help="An ONNX file, instead of --network.")
    ] = None,
    device: DeviceOption = "cpu",
    runtime: Annotated[str, typer.Option(help=runtimes_told())] = ONNX_RUNTIME,
    levels: Annotated[
        int, typer.Option(help=f"How many widths to measure per group: one of {LEVELS}.")
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
    kernels: Annotated[
        str | None,
        typer.Option(
            help=f"On a CPU: `{BLOCK_SPARSE}` runs pruned networks on kernels that leave out "
            "weights, and measures densities as well as widths."
        ),
    ] = None,
    block: Annotated[
        int | None,
        typer.Option(
            help="With --kernels: output channels whose weights are kept or left out together, "
            f"{', '.join(map(str, BLOCKS))}. Default: {BLOCK}."
        ),
    ] = None,
    error: Annotated[
        str | None,
        typer.Option(help="Stop once the error on held-out networks is at most this, as in 2%."),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(help="Stop after this time, as in 90s, 10m or 1h; earlier calls count."),
    ] = None,
    seed: SeedOption = 0,
    out: Annotated[Path | None, typer.Option(help=HOME_HELP)] = None,
    name: Annotated[
        str | None, typer.Option(help="Name for this device, as in jetson_kitchen_1t.")
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Show what would be measured, and stop.")] = False,
    json_: JsonOption = False,
) -> None:
    """Measure a network on this device into a table; continues where it was interrupted.

    Without --error it measures the whole design. Exit code 4: the error asked for was not reached;
    the table is there all the same and says what it reached.
    """
    if levels not in LEVELS:
        raise OptionError(f"--levels must be one of {', '.join(map(str, LEVELS))}, got {levels}")
    runtime = _runtime_with(kernels, runtime, block)
    usage = Usage(threads, batch, precision, cuda_graph, algorithm_search, runtime, block or BLOCK)
    target = this_device(device, usage)
    target, folder = _home(target, out, name)
    loaded = _network_or_onnx(network, onnx_file, folder)
    if onnx_file is not None and is_half(onnx_file) and target.precision != "fp16":
        print(
            f"{onnx_file} computes in FP16; the table is of the same network in "
            f"{target.precision.upper()}",
            file=sys.stderr,
        )
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


def _runtime_with(kernels: str | None, runtime: str, block: int | None) -> str:
    """The runtime that has these kernels; raises OptionError for what does not go together."""
    if kernels is not None:
        if kernels != BLOCK_SPARSE:
            raise OptionError(f"--kernels {kernels}: expected {BLOCK_SPARSE}")
        if runtime not in (ONNX_RUNTIME, SPARSE_RUNTIME):
            raise OptionError(f"--kernels {kernels} has a runtime of its own; leave --runtime out")
        runtime = SPARSE_RUNTIME
    if block is not None and runtime != SPARSE_RUNTIME:
        raise OptionError(f"--block {block} has no effect without --kernels; leave it out")
    if block not in (None, *BLOCKS):
        raise OptionError(f"--block {block}: expected one of {', '.join(map(str, BLOCKS))}")
    return runtime


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
    loaded = network_of(network, table)
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


def repeat(
    table: TableOption,
    network: NetworkOption,
    times: Annotated[
        int, typer.Option(min=2, help="How many tables to build, each in a fresh process.")
    ] = 5,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the tables, so that an interrupted call can continue."),
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


def transfer(
    source: Annotated[Path, typer.Option("--from", help="The table of another device.")],
    network: NetworkOption,
    out: Annotated[Path | None, typer.Option(help="The new table's folder.")] = None,
    samples: Annotated[
        int, typer.Option(min=12, help="How many networks to measure layer by layer.")
    ] = FEW,
    unseen: Annotated[
        int, typer.Option(min=4, help="How many held-out networks of each kind.")
    ] = UNSEEN,
    device: DeviceOption = "cpu",
    runtime: Annotated[str, typer.Option(help=runtimes_told())] = ONNX_RUNTIME,
    threads: ThreadsOption = 1,
    batch: BatchOption = 1,
    precision: PrecisionOption = "fp32",
    json_: JsonOption = False,
) -> None:
    """Make a table for this device from few measurements and the table of a similar device.

    What was measured here decides, the other table fills in. `latprof profile` into the same
    folder makes it a whole one.
    """
    target = this_device(device, Usage(threads, batch, precision, runtime=runtime))
    target, folder = _home(target, out)
    loaded = network_of(network, source)
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
    runtime: Annotated[str, typer.Option(help=runtimes_told())] = ONNX_RUNTIME,
    json_: JsonOption = False,
) -> None:
    """Time two ONNX files in pairs on this machine: the measured speedup with its range."""
    if table:
        device = open_here(table).device
        if runtime not in (ONNX_RUNTIME, device.runtime):
            raise OptionError(f"--runtime {runtime}: the table's device uses {device.runtime}")
    else:
        device = this_device("cpu", Usage(threads or 1, runtime=runtime))
    if table:
        if threads not in (None, device.threads):
            raise OptionError(
                f"--threads {threads}: the table's device uses {device.threads}; leave --threads "
                "out"
            )
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
            f"this machine was in a slow phase: {result.slow_phase}. The expected speedup without "
            f"it is {result.expected_low:.3f} … {result.expected_high:.3f}×"
        )
    elif disturbed := result.sessions - result.quiet_sessions:
        print(
            f"{disturbed} of {result.sessions} sessions were disturbed and do not count; with "
            f"them, the speedup would be {result.unselected_speedup:.3f}×"
        )


@contextmanager
def _interruptible(folder: Path) -> Iterator[None]:
    """Ctrl-C says how to continue and ends with the shell's usual code."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"interrupted; the same command continues {folder}", file=sys.stderr)
        raise typer.Exit(130) from None


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)


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
            f"{home_of(target.name)} belongs to another device ({what}); using {home} instead",
            file=sys.stderr,
        )
    return named, home


def _network_or_onnx(network: str | None, file: Path | None, table: Path) -> Network:
    if network is not None and file is None:
        return network_of(network, table)
    if file is not None and network is None:
        return read_onnx(file)
    raise OptionError("give either --network or --onnx")


def _say_how_alike(network: Network, device: Device, file: Path, folder: Path) -> None:
    """The file itself beside the network that stood in for it: the table's trust in one figure."""
    network_file = LatencyTable.open(folder).network_path(network.name)
    if device.batch != 1 or device.precision != "fp32":
        print(f"network file for this table: {network_file}")
        return
    try:
        with tempfile.TemporaryDirectory(prefix="latprof-") as place:
            stand_in = Path(place) / "dense.onnx"
            onnx.save(build(network, network.dense, device.batch, device.precision), str(stand_in))
            result = compare_files(stand_in, file, device)
    except ContractError as error:  # the table is finished all the same
        print(
            f"the ONNX file itself could not be timed ({error}); network file for this table: "
            f"{network_file}"
        )
        return
    print(
        f"{file} itself takes {1 / result.speedup:.3f}× the time of the network that was profiled "
        f"in its place; network file for this table: {network_file}"
    )


def _print_plan(network: Network, device: Device, folder: Path, goal: Goal, **how: int) -> None:
    found = foresee(network, device, folder, goal=goal, **how)
    if any(found.there):
        designed, judged = found.there
        print(
            f"{folder} already has {designed} of the pruned and {judged} of the held-out networks."
        )
    if found.done:
        print(f"{network.name} on {device.name}: nothing is left to measure.")
        return
    if not any(found.missing) or found.seconds == 0:
        left = "disturbed runs are repeated"
        if any(found.missing):
            left = "the budget is spent"
        elif goal.error:
            left = f"more networks, until an error of {goal.error:.1%} is reached"
        print(f"{network.name} on {device.name}: {left}.")
        return
    designed, judged = found.missing
    print(
        f"{network.name} on {device.name}: {designed} pruned networks to measure layer by layer "
        f"and {judged} held-out networks to check predictions, each beside the dense network, "
        f"into {folder}.\nAbout {found.seconds:.0f} s, estimated from the dense network's time"
        + (f"; stops earlier at an error of {goal.error:.1%}" if goal.error else "")
    )
