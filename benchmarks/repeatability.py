"""How well tables repeat: rebuilt in fresh processes, compared entry by entry and per network.

    python -m benchmarks.repeatability [--network resnet20] [--times 5] [--work FOLDER]

The tables stay in the work folder, so that it can be interrupted.
"""

from __future__ import annotations

from pathlib import Path

import typer

from benchmarks.results import save
from latprof.detect import Usage, this_device
from latprof.repeat import repeat
from lookup_tables.network import Network
from lookup_tables.table import DATA, LatencyTable, named_apart


def main(
    network: str = "resnet20",
    times: int = 5,
    threads: int = 1,
    work: Path = Path("runs/repeatability"),
    samples: int = 20,
) -> None:
    device, _ = named_apart(this_device("cpu", Usage(threads)))
    table = LatencyTable.open(DATA / device.name)
    device.require(table.device, str(table.folder))
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
