"""How well tables repeat: rebuilt in fresh processes, compared entry by entry and per network.

    python -m benchmarks.repeatability [--network resnet20] [--times 5] [--work FOLDER]

The tables stay in the work folder, so that it can be interrupted.
"""

from __future__ import annotations

from pathlib import Path

import typer

from benchmarks.here import table_here
from benchmarks.results import save
from latprof.profile.repeat import repeat
from lookup_tables.network import Network
from lookup_tables.table.store import LatencyTable


def main(
    network: str = "resnet20",
    times: int = 5,
    threads: int = 1,
    work: Path = Path("runs/repeatability"),
    samples: int = 20,
) -> None:
    device, table = table_here(threads)
    folder = work / f"{network}_{device.name}"
    options = ["--samples", str(samples)]
    found = repeat(
        Network.load(network), table, times, folder, options, network,
        lambda done, total, text: print(f"{done}/{total} {text}"),
    )  # fmt: skip
    tables = [LatencyTable.open(folder / str(i)) for i in range(1, times + 1)]
    errors = [
        {widths: t.validation(network, widths).rmspe for widths in ("menu", "any")} for t in tables
    ]
    content = {"device": device.model_dump(), **found.model_dump(), "rmspe_of_each": errors}
    print(save(f"repeatability_{network}_{device.name}", content))


if __name__ == "__main__":
    typer.run(main)
