"""A profile beside busy loops: as good as idle, or refused; never worse in silence.

    python -m benchmarks.busy_profile [--network resnet56]

Idle, beside one loop (a core is left), and beside two (on two cores none is); every table that came
out is judged by the same fresh networks on the idle machine.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import typer

from benchmarks.disturbances import Disturbance
from benchmarks.profiles import judged, made
from benchmarks.results import save

PLACE = Path("runs/busy_profile")


def main(network: str = "resnet56") -> None:
    rows = []
    cores = len(os.sched_getaffinity(0))
    for loops in (0, cores - 1, cores):
        table = PLACE / f"{network}_{loops}"
        shutil.rmtree(table, ignore_errors=True)
        name = f"{loops} busy of {cores} cores" if loops else "idle"
        row = made(network, table, beside=Disturbance(name, loops=loops))
        if row["exit_code"] == 0:
            row["fresh"] = judged(network, table)
        rows.append(row)
        print(json.dumps(row), flush=True)
        print(save("busy_profile", {"rows": rows}))


if __name__ == "__main__":
    typer.run(main)
