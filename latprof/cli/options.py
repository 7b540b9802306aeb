"""What the commands of `latprof` have in common: options, how they are read, progress."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from latprof import OptionError
from latprof.kernels import BLOCKS
from latprof.runtimes import RUNTIMES, runtime_of
from lookup_tables.network import Network
from lookup_tables.storage.manifest import expected
from lookup_tables.table.store import LatencyTable

console = Console(stderr=True)

QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="No progress; answers and errors only.")
]
NetworkOption = Annotated[str, typer.Option("--network", help="A shipped network, or a file.json.")]
TableOption = Annotated[Path, typer.Option("--table", help="A table's folder.")]
DeviceOption = Annotated[
    str, typer.Option(help="What to measure: `cpu`, `cuda`, or the hardware's name.")
]
ThreadsOption = Annotated[int, typer.Option(min=1, help="Threads the runtime may use.")]
BatchOption = Annotated[int, typer.Option(min=1, help="Images per inference.")]
BlockOption = Annotated[
    int,
    typer.Option(
        help="Output channels whose weights are kept or left out together: "
        f"{', '.join(map(str, BLOCKS))}."
    ),
]
SamplesOption = Annotated[
    int,
    typer.Option(
        min=2, help="How many held-out architectures of candidate widths, and as many of any width."
    ),
]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of the random choice of architectures.")]
PrecisionOption = Annotated[str, typer.Option(help="fp32; int8 on a CPU, fp16 on a GPU.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON to standard output.")]
HOME_HELP = (
    "The table's folder. Default: lookup_tables/data/DEVICE in a checkout, else tables/DEVICE. A "
    "new table is called DEVICE_avx2, say, if another device has that name."
)
ArchitectureOption = Annotated[
    Path,
    typer.Option(
        "--architecture",
        help='{"widths": {"group": n}, "removed": ["block"], "density": {"layer": d}}',
    ),
]


def runtimes_told() -> str:
    """The help of --runtime, of what is registered when it is asked for."""
    summaries: dict[str, list[str]] = {}
    for entry in RUNTIMES.values():
        summaries.setdefault(entry.runtime, []).append(entry.summary)
    told = (f"{name} ({', or '.join(of)})" for name, of in summaries.items())
    return f"What runs the networks: {'; '.join(told)}."


def share(text: str) -> float:
    """The share that 2% or 0.02 stands for; raises OptionError outside 0 … 1."""
    match = re.fullmatch(r"(\d*\.?\d+)\s*(%?)", text.strip())
    value = float(match[1]) / (100 if match[2] else 1) if match else 0.0
    if not 0 < value < 1:
        raise OptionError(f"--error {text!r}: expected a share such as 2% or 0.02")
    return value


def seconds(text: str) -> float:
    """Seconds of a duration such as 90, 90s, 3m or 1.5h; raises OptionError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip())
    if not match or float(match[1]) == 0:
        raise OptionError(f"--budget {text!r}: expected a duration such as 90s, 3m or 1h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def network_beside(table: Path, name: str) -> str:
    """What `Network.load` takes: the file of that name beside a table's rows, else the name."""
    beside = table / f"{name}.network.json"
    return str(beside) if expected(beside) else name


def open_here(folder: Path) -> LatencyTable:
    """A table of this very machine; raises DeviceMismatch or DeviceNotHere."""
    table = LatencyTable.open(folder)
    wanted = table.device
    device = runtime_of(wanted).like(wanted)
    device.require(wanted, f"table {folder} ({wanted.name})")
    return table


def progress() -> Progress:
    """A bar with the time left, and what is being done."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
        console=console,
    )


def network_of(name: str, table: Path) -> Network:
    """The network of that name beside a table's rows, else a shipped one or a file."""
    return Network.load(network_beside(table, name))
