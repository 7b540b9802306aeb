"""How well a table repeats: built anew in fresh processes, entry by entry and per network.

A process keeps its memory placement and its machine its mood; only another process at another
time shows what a figure is worth.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from latprof import DISTURBED_EXIT, Disturbed, OptionError
from latprof.runtimes import runtime_of
from latprof.runtimes.base import ONNX_RUNTIME
from lookup_tables.device import Device
from lookup_tables.model.diff import compare_tables, entry_shares, speedups
from lookup_tables.model.latency_model import LatencyModel
from lookup_tables.network import Network
from lookup_tables.storage.files import only_writer
from lookup_tables.table.repeats import Repeatability, Spread
from lookup_tables.table.store import LatencyTable, repeats_path

Report = Callable[[int, int, str], None]


def repeat(
    network: Network,
    table: LatencyTable,
    times: int,
    folder: Path,
    options: list[str],
    network_option: str,
    report: Report = lambda done, total, text: None,
) -> Repeatability:
    """Profile `times` tables, each in a process of its own, into folder/1 … folder/times.

    What is there already is kept, so an interrupted repeat continues. The result is also written
    beside the table. Raises TableError for a table that does not hold this network, OptionError if
    a profile fails, Disturbed if the machine was too busy for it, and TableError if another process
    is writing into the table then: the same call goes on.
    """
    table.require_network(network)
    device = table.device
    plan = table.plan(network.name)
    usage = _as_options(device)
    if plan is not None:
        usage += ["--levels", str(plan.levels), "--seed", str(plan.seed)]
    tables = []
    for number in range(1, times + 1):
        report(number - 1, times, f"table {number} of {times}")
        out = folder / str(number)
        command = [sys.executable, "-m", "latprof", "profile", "--network", network_option]
        command += [*usage, *options, "--out", str(out)]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        if answer.returncode:
            said = answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"]
            kind = Disturbed if answer.returncode == DISTURBED_EXIT else OptionError
            raise kind(f"table {number} failed: {said[-1].removeprefix('error: ')}")
        tables.append(LatencyTable.open(out))
        tables[-1].device.require(device, f"table {table.folder}")
    result = repeatability(network, tables)
    path = repeats_path(table.folder, network.name)
    with only_writer(table.folder):
        result.save(path)
        table.seal(network.name, [path.name])
    report(times, times, "compared")
    return result


def _as_options(device: Device) -> list[str]:
    """The options of `latprof profile` that use a device in this way."""
    options = ["--batch", str(device.batch), "--precision", device.precision]
    if device.runtime != ONNX_RUNTIME:
        options += ["--runtime", device.runtime]
    return [*options, *runtime_of(device).options(device)]


def repeatability(network: Network, tables: list[LatencyTable]) -> Repeatability:
    """Compare tables of one network on one device that were built independently."""
    shares = [entry_shares(table, network) for table in tables]
    common = [spec for spec in shares[0] if all(spec in other for other in shares[1:])]
    entries = np.array([[measured[spec] for spec in common] for measured in shares])
    predicted = np.array([speedups(network, LatencyModel(network, table)) for table in tables])
    first, *others = tables
    return Repeatability(
        network=network.name,
        tables=len(tables),
        entries=_spread(entries),
        predictions=_spread(predicted),
        flagged=tuple(len(compare_tables(network, first, other).changed) for other in others),
    )


def _spread(values: np.ndarray) -> Spread:
    """`values`: (tables, things)."""
    spreads = values.std(axis=0, ddof=1) / values.mean(axis=0)
    return Spread(
        count=len(spreads),
        median_spread=float(np.median(spreads)),
        p95_spread=float(np.percentile(spreads, 95)),
        worst_spread=float(spreads.max()),
    )
