"""What more runs buy: the error on unseen networks against the number of designed ones.

Reads the tables only: of every table the first runs, in the order in which they were measured, must
predict all its unseen networks.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from benchmarks.results import save
from lookup_tables.model.latency_model import LatencyModel
from lookup_tables.network import Network
from lookup_tables.table.home import DATA
from lookup_tables.table.rows import Run
from lookup_tables.table.settled import undisturbed
from lookup_tables.table.store import LatencyTable

COUNTS = (16, 24, 32, 48, 64, 96, 128)


def main() -> None:
    curves: dict[str, dict] = {}
    for folder in sorted(path.parent for path in DATA.glob("*/device.json")):
        table = LatencyTable.open(folder)
        curves[folder.name] = {name: curve(Network.load(name), table) for name in table.networks()}
    print(save("learning_curve", {"tables": curves}))


def curve(network: Network, table: LatencyTable) -> list[dict]:
    """RMSPE on the menu and at any width after so many designed networks."""
    unseen = undisturbed(table.settled_runs(network, "unseen"))
    points = []
    for count in COUNTS:
        with tempfile.TemporaryDirectory() as place:
            part = first_runs(network, table, count, Path(place))
            if part is None:
                break
            model = LatencyModel(network, part)
            between = np.array([model.off_menu(run.architecture) for run in unseen])
            errors = model.errors(unseen)
        points.append(
            {
                "designed": count,
                "menu_rmspe": float(np.sqrt(np.mean(errors[~between] ** 2))),
                "any_rmspe": float(np.sqrt(np.mean(errors[between] ** 2))),
            }
        )
    return points


def first_runs(network: Network, table: LatencyTable, count: int, folder: Path):
    """A table of the plan and of the first `count` designed networks with all their attempts."""
    order = list(dict.fromkeys(run.run for run in table.runs(network, "design")))
    if len(order) < count:
        return None
    kept = set(order[:count])
    rows = [
        row
        for row in table.rows(network.name)
        if not isinstance(row, Run) or (row.purpose == "design" and row.run in kept)
    ]
    part = LatencyTable.create(folder / "part", table.device)
    part.append(network.name, [row for row in rows if row.row != "validation"])
    return part


if __name__ == "__main__":
    main()
