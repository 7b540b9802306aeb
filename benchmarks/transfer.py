"""A table for this machine from another device's, with 20 networks measured: how wrong is it?

    python -m benchmarks.transfer [--source TABLE] [--threads 2] [--samples 20] [NETWORK …]

The other device is this machine on one thread unless told otherwise. Each network is transferred
into a new folder; its error is told by 30 unseen networks of each kind, measured in the same run.
Beside it: the same 20 networks without the other table, the other table as it is, and the straight
line in MACs. Only on an idle machine.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.results import save
from latprof.profile.transfer import SAMPLES, transfer
from latprof.runtimes.base import Usage
from latprof.runtimes.here import this_device
from lookup_tables.device import Device
from lookup_tables.model.latency_model import LatencyModel
from lookup_tables.network import Network
from lookup_tables.table.home import DATA
from lookup_tables.table.settled import undisturbed
from lookup_tables.table.store import LatencyTable

NETWORKS = ["resnet56", "vgg16_32", "mobilenet_v1", "resnet18"]
UNSEEN = 30  # of each kind


def main(
    networks: Annotated[list[str] | None, typer.Argument()] = None,
    source: Path | None = None,
    threads: int = 2,
    samples: int = SAMPLES,
    tables: Annotated[Path | None, typer.Option(help="Keep the tables; continue them.")] = None,
) -> None:
    known = LatencyTable.open(source or DATA / this_device("cpu", Usage(threads=1)).name)
    target = this_device("cpu", Usage(threads=threads))
    results = {}
    with tempfile.TemporaryDirectory() as place:
        for name in networks or NETWORKS:
            network = Network.load(name)
            results[name] = _one(network, known, target, (tables or Path(place)) / name, samples)
            print(name, results[name], flush=True)
    facts = {"from": known.device.model_dump(), "to": target.model_dump(), "samples": samples}
    name = f"transfer/{known.device.name}_to_{target.name}"
    print(save(name, facts | {"networks": results}))


def _one(network: Network, source: LatencyTable, target: Device, folder: Path, samples: int):
    outcome = transfer(network, source, target, folder, samples=samples, unseen=UNSEEN)
    table = LatencyTable.open(folder)
    alone = LatencyModel(network, _without_prior(table, network))
    other = LatencyModel(network, source)
    answer = {"seconds": outcome.menu.measuring_s}
    for widths, judged in (("menu", outcome.menu), ("any", outcome.any)):
        runs = [
            run
            for run in undisturbed(table.settled_runs(network, "unseen"))
            if other.off_menu(run.architecture) == (widths == "any")
        ]
        answer[widths] = {
            "transferred": judged.rmspe,
            "without_the_other_table": _rmspe(alone.errors(runs)),
            "other_table_as_it_is": _rmspe(other.errors(runs)),
            "flops_line": judged.flops_rmspe,
            "networks": judged.architectures,
            "within_5_percent": judged.within_5_percent,
            "rank_correlation": judged.rank_correlation,
            "coverage_90": judged.coverage_90,
        }
    return answer


def _without_prior(table: LatencyTable, network: Network) -> LatencyTable:
    """A copy beside the table, of what was measured here only."""
    folder = table.folder.with_name(f"{table.folder.name}_alone")
    left_out = (table.prior_path(network.name).name, "manifest.json")
    shutil.copytree(table.folder, folder, ignore=lambda *_: left_out, dirs_exist_ok=True)
    return LatencyTable.open(folder)


def _rmspe(errors: np.ndarray) -> float:
    return float(np.sqrt(np.mean(errors**2)))


if __name__ == "__main__":
    typer.run(main)
