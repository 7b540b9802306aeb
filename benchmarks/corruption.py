"""A sealed table harmed in 200 random ways: is every one refused, or harmless?

    python -m benchmarks.corruption [--damages 200]

Each time a copy of a committed table, with its device and manifest, is harmed in one way, and 50
architectures are predicted from it: either that is refused, or the predictions are the very same
numbers. Nothing here is a timing.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import typer

from benchmarks.results import save
from lookup_tables.errors import ContractError
from lookup_tables.model.latency_model import LatencyModel
from lookup_tables.network import Network
from lookup_tables.table.home import DATA
from lookup_tables.table.store import LatencyTable
from tests.damage import WAYS, damage

NETWORK = "resnet20"
TABLE = DATA / "intel_xeon_processor_1t"
ARCHITECTURES = 50


def main(damages: int = 200, seed: int = 0) -> None:
    rng = random.Random(seed)
    network = Network.load(NETWORK)
    widths = _some_widths(network)
    outcomes: dict[str, Counter] = {kind: Counter() for kind in WAYS}
    with tempfile.TemporaryDirectory() as place:
        whole = Path(place) / "whole"
        _copy_network(whole)
        expected = LatencyModel.load(network, whole).predict(widths).latency_s
        for number in range(damages):
            kind = WAYS[number % len(WAYS)]
            harmed = Path(place) / "harmed"
            shutil.copytree(whole, harmed)
            name = damage(harmed, kind, rng)
            outcome = _outcome(network, harmed, widths, expected)
            outcomes[kind][outcome] += 1
            print(f"{number + 1}: {kind} in {name}: {outcome}")
            shutil.rmtree(harmed)
    counts = {kind: dict(counter) for kind, counter in outcomes.items()}
    silent = sum(counter["silently changed"] for counter in outcomes.values())
    print(save("corruption", {"damages": damages, "seed": seed, "outcomes": counts,
                              "silently_changed": silent}))  # fmt: skip


def _copy_network(folder: Path) -> None:
    table = LatencyTable.open(TABLE)
    folder.mkdir()
    for name in table.files(NETWORK):
        shutil.copy(TABLE / name, folder)
    LatencyTable.open(folder).seal(NETWORK)


def _outcome(network: Network, folder: Path, widths: np.ndarray, expected: np.ndarray) -> str:
    try:
        found = LatencyModel.load(network, folder).predict(widths).latency_s
    except ContractError:
        return "refused"
    return "harmless" if np.array_equal(found, expected) else "silently changed"


def _some_widths(network: Network) -> np.ndarray:
    """(ARCHITECTURES, groups) on the menu."""
    rng = np.random.default_rng(0)
    return np.stack([rng.choice(g.choices, ARCHITECTURES) for g in network.groups], axis=1)


if __name__ == "__main__":
    typer.run(main)
