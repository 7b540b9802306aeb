"""Writes down what every committed table predicts: python -m tests.lookup_tables.golden

Only after the predictor was changed on purpose and PREDICTOR was raised.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from lookup_tables.architecture import Architecture
from lookup_tables.model.latency_model import PREDICTOR, LatencyModel
from lookup_tables.network import Network
from lookup_tables.table.home import DATA
from lookup_tables.table.store import LatencyTable

GOLDEN = Path(__file__).parent / "golden.json"
EACH = 10  # architectures of every network


def committed() -> list[tuple[str, str]]:
    """(device, network) of every committed table that predicts."""
    tables = [LatencyTable.open(folder) for folder in sorted(DATA.iterdir()) if folder.is_dir()]
    return [(table.folder.name, network) for table in tables for network in table.networks()]


def drawn(network: Network, lowest: dict[str, int]) -> list[Architecture]:
    """The same ten of a network, for ever: the dense one, then random widths and blocks."""
    rng = np.random.default_rng(2026)
    found = [network.dense]
    while len(found) < EACH:
        widths = {
            group.name: int(
                rng.integers(max(lowest[group.name], group.width // 4), group.width + 1)
            )
            for group in network.groups
        }
        gone = tuple(block.name for block in network.shortcuts if rng.random() < 0.2)
        found.append(Architecture(widths=widths, removed=gone))
    return found


def thinned(architectures: list[Architecture], sparse: tuple[str, ...]) -> list[Architecture]:
    """The same with densities, the dense one apart."""
    rng = np.random.default_rng(2027)
    return [architectures[0]] + [
        one.model_copy(update={"density": {n: round(rng.uniform(0.1, 1), 3) for n in sparse}})
        for one in architectures[1:]
    ]


def predictions(device: str, name: str) -> list[float]:
    """Seconds of these architectures, by today's predictor."""
    table = LatencyTable.open(DATA / device)
    network = table.load_network(name)
    model = LatencyModel(network, table)
    asked = drawn(network, model.lowest_widths)
    asked = thinned(asked, model.sparse_layers) if model.sparse_layers else asked
    return model.predict_architectures(asked).latency_s.tolist()


def main() -> None:
    found = {f"{device}/{name}": predictions(device, name) for device, name in committed()}
    GOLDEN.write_text(json.dumps({"predictor": PREDICTOR, "seconds": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
