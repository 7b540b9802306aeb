"""Transfers replayed from the committed tables: 20 of a table's runs and another device's table.

    python -m benchmarks.transfer_replayed [--draws 3]

Needs no device. Of every table's designed runs 20 are drawn, as many between the menu's widths as a
transfer measures, and judged by all its unseen runs; the other device is the committed one of one
thread. Beside it: the same 20 runs alone, and the whole table.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import typer

from benchmarks.results import save
from latprof.profile.journey import FEW_OFF_MENU
from latprof.profile.transfer import SAMPLES
from lookup_tables.model.latency_model import LatencyModel
from lookup_tables.network import Network
from lookup_tables.table.home import DATA
from lookup_tables.table.prior import Prior
from lookup_tables.table.rows import Run
from lookup_tables.table.settled import undisturbed
from lookup_tables.table.store import LatencyTable

SOURCE = "intel_xeon_processor_1t"
ALWAYS = (0, 1)  # the dense network and the narrowest one


def main(draws: int = 3) -> None:
    source = LatencyTable.open(DATA / SOURCE)
    found: dict[str, dict] = {}
    for path in sorted(DATA.glob("*/device.json")):
        target = LatencyTable.open(path.parent)
        if target.device != source.device:
            for name in sorted({*source.networks()} & {*target.networks()}):
                network = Network.load(name)
                replayed = _replayed(network, source, target, draws)
                found.setdefault(target.device.name, {})[name] = replayed
                print(target.device.name, name, replayed, flush=True)
    facts = {"from": source.device.name, "samples": SAMPLES, "draws": draws}
    print(save("transfer_replayed", facts | {"to": found}))


def _replayed(network: Network, source: LatencyTable, target: LatencyTable, draws: int) -> dict:
    whole = LatencyModel(network, target)
    prior = LatencyModel(network, source).as_prior()
    unseen = undisturbed(target.settled_runs(network, "unseen"))
    off_menu = np.array([whole.off_menu(run.architecture) for run in unseen])
    errors = {"transferred": [], "whole_table": [whole.errors(unseen)]}
    for seed in range(draws):
        runs = _drawn(target.settled_runs(network, "design"), whole, seed)
        with tempfile.TemporaryDirectory() as folder:
            model = _model(network, target, runs, prior, Path(folder) / "table")
            errors["transferred"].append(model.errors(unseen))
    return {
        way: {
            widths: [float(np.sqrt(np.mean(error[chosen] ** 2))) for error in each]
            for widths, chosen in (("menu", ~off_menu), ("any", off_menu))
        }
        for way, each in errors.items()
    }


def _drawn(runs: list[Run], whole: LatencyModel, seed: int) -> list[Run]:
    """SAMPLES of the designed runs; of those on the menu the first two always."""
    rng = np.random.default_rng(seed)
    between = [run for run in runs if whole.off_menu(run.architecture)]
    on_menu = [run for run in runs if run not in between]
    few = round(FEW_OFF_MENU * SAMPLES)
    always = [run for run in on_menu if run.run in ALWAYS]
    others = [run for run in on_menu if run.run not in ALWAYS]
    some = rng.choice(len(others), SAMPLES - few - len(always), replace=False)
    rest = rng.choice(len(between), min(few, len(between)), replace=False)
    return [*always, *(others[i] for i in some), *(between[i] for i in rest)]


def _model(
    network: Network, target: LatencyTable, runs: list[Run], prior: Prior, folder: Path
) -> LatencyModel:
    table = LatencyTable.create(folder, target.device)
    table.append(network.name, [target.plan(network.name), *runs])
    prior.save(table.prior_path(network.name))
    return LatencyModel(network, table)


if __name__ == "__main__":
    typer.run(main)
