"""How a table's prediction holds where whole layers go: random depths, at full and at mixed widths.

    python -m benchmarks.depths [--threads 1] [--samples 40] [--table FOLDER] [NETWORK …]

Of every network, half of the architectures have all channels and half any candidate widths; each
loses a random share of its removable blocks and layers. All are measured beside the dense network
in sessions of this process. `rmspe` is of predicted against measured times relative to dense.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.here import table_here
from benchmarks.results import RESULTS, save
from latprof.profile.judge import measured_beside_dense
from lookup_tables.architecture import Architecture
from lookup_tables.device import Device
from lookup_tables.model.latency_model import LatencyModel
from lookup_tables.network import Network
from lookup_tables.table.home import DATA
from lookup_tables.table.settled import undisturbed
from lookup_tables.table.store import LatencyTable

NAME = "depths"
FEWEST, MOST = 0.05, 0.7  # share of what can go that goes


def main(
    networks: Annotated[list[str] | None, typer.Argument()] = None,
    threads: int = 1,
    samples: int = 40,
    tables: Path = DATA,
    table: Annotated[Path | None, typer.Option(help="this one instead of this device's")] = None,
) -> None:
    device, at = table_here(threads, tables) if table is None else _given(table)
    path = RESULTS / f"{NAME}.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    for name in networks or at.networks():
        network = Network.load(name)
        model = LatencyModel(network, at)
        chosen = architectures(network, samples)
        runs = undisturbed(measured_beside_dense(network, at, chosen))
        row = {
            "device": device.name,
            "network": name,
            "table_measured_at": at.validation(name).measured_at,
            "blocks": len(network.blocks),
        }
        full = network.dense.widths
        for kind, wanted in (("full", True), ("mixed", False)):
            those = [r for r in runs if (r.architecture.widths == full) is wanted]
            errors = model.errors(those)
            row |= {
                f"{kind}_networks": len(those),
                f"{kind}_rmspe": float(np.sqrt(np.mean(errors**2))),
                f"{kind}_bias": float(errors.mean()),
            }
        errors = model.errors(runs)
        row |= {
            "networks": len(runs),
            "rmspe": float(np.sqrt(np.mean(errors**2))),
            "worst": float(np.abs(errors).max()),
            "removed": float(np.median([len(r.architecture.removed) for r in runs])),
        }
        rows = [r for r in rows if (r["device"], r["network"]) != (device.name, name)] + [row]
        print(json.dumps(row), flush=True)
        save(NAME, {"rows": rows})
    print(path)


def _given(folder: Path) -> tuple[Device, LatencyTable]:
    """A table of this machine that is no device's own, and its device."""
    found = LatencyTable.open(folder)
    return found.device, found


def architectures(network: Network, samples: int) -> list[Architecture]:
    """Random depths, every second with all channels."""
    rng = np.random.default_rng(2026)
    found: list[Architecture] = []
    while len(found) < samples:
        share = rng.uniform(FEWEST, MOST)
        removed = tuple(b.name for b in network.blocks if rng.random() < share)
        widths = network.dense.widths
        if len(found) % 2:
            widths = {g.name: int(rng.choice(g.choices)) for g in network.groups}
        one = Architecture(widths=network.tied(widths, removed), removed=removed)
        if removed and one not in found:
            found.append(one)
    return found


if __name__ == "__main__":
    typer.run(main)
