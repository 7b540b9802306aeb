"""From one thread to two threads with 20 networks measured: how wrong is the table?

    python -m benchmarks.transfer [--samples 20] [NETWORK …]

Each network is transferred into a new folder; its error is told by 30 unseen networks of each kind,
measured in the same run. Beside it: the same 20 networks without the other table, the other table
as it is, and the straight line in MACs. Only on an idle machine.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.results import save
from latprof.detect import Usage, this_device
from latprof.transfer import SAMPLES, transfer
from lookup_tables.device import Device
from lookup_tables.estimate import LatencyModel
from lookup_tables.network import Network
from lookup_tables.table import DATA, LatencyTable, undisturbed

NETWORKS = ["resnet56", "vgg16_32", "mobilenet_v1", "resnet18"]
UNSEEN = 30  # of each kind


def main(
    networks: Annotated[list[str] | None, typer.Argument()] = None, samples: int = SAMPLES
) -> None:
    source = LatencyTable.open(DATA / this_device("cpu", Usage(threads=1)).name)
    target = this_device("cpu", Usage(threads=2))
    results = {}
    with tempfile.TemporaryDirectory() as place:
        for name in networks or NETWORKS:
            network = Network.load(name)
            results[name] = _one(network, source, target, Path(place) / name, samples)
            print(name, results[name], flush=True)
    facts = {"from": source.device.model_dump(), "to": target.model_dump(), "samples": samples}
    print(save("transfer", facts | {"networks": results}))


def _one(network: Network, source: LatencyTable, target: Device, folder: Path, samples: int):
    outcome = transfer(network, source, target, folder, samples=samples, unseen=UNSEEN)
    table = LatencyTable.open(folder)
    table.prior_path(network.name).rename(folder / "put.aside")
    (folder / "manifest.json").unlink()
    alone = LatencyModel(network, LatencyTable.open(folder))
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


def _rmspe(errors: np.ndarray) -> float:
    return float(np.sqrt(np.mean(errors**2)))


if __name__ == "__main__":
    typer.run(main)
