"""The committed tables against each other: what another processor or another thread changes.

    python -m benchmarks.devices

Needs no device. For every network that two tables hold: the dense network's time, how far predicted
speedups of 200 random architectures differ, and how many layers differ beyond noise, as `latprof
diff` tells them.
"""

from __future__ import annotations

from itertools import combinations

import typer

from benchmarks.results import save
from lookup_tables.model.diff import compare_tables
from lookup_tables.network import Network
from lookup_tables.table.home import DATA
from lookup_tables.table.store import LatencyTable


def main() -> None:
    tables = [LatencyTable.open(path.parent) for path in sorted(DATA.glob("*/device.json"))]
    found = {}
    for first, second in combinations(tables, 2):
        for name in sorted({*first.networks()} & {*second.networks()}):
            found.setdefault(f"{first.device.name} {second.device.name}", {})[name] = _facts(
                Network.load(name), first, second
            )
    devices = {table.device.name: table.device.model_dump() for table in tables}
    print(save("devices", {"devices": devices, "pairs": found}))


def _facts(network: Network, first: LatencyTable, second: LatencyTable) -> dict:
    difference = compare_tables(network, first, second)
    return {
        "dense_ratio": difference.dense_ratio,
        "median_change_of_speedups": difference.median_change,
        "worst_change_of_speedups": difference.worst_change,
        "entries": len(difference.entries),
        "changed_entries": len(difference.changed),
    }


if __name__ == "__main__":
    typer.run(main)
