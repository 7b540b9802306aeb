"""What knowing the device's channel step is worth, and how little the process's constants matter.

Reads the tables only: every table's unseen networks at any width, predicted with the step that was
found, with none, and with each constant halved and doubled.
"""

from __future__ import annotations

from unittest.mock import patch

import numpy as np

from benchmarks.results import save
from lookup_tables.model import latency_model as estimate
from lookup_tables.model import surface
from lookup_tables.model.latency_model import LatencyModel
from lookup_tables.model.surface import STEPS
from lookup_tables.network import Network
from lookup_tables.table.home import DATA
from lookup_tables.table.settled import undisturbed
from lookup_tables.table.store import LatencyTable

CONSTANTS = ("_SPREAD", "_CLASS_SPREAD", "_NOISE", "_LENGTH", "_ALIKE")


def main() -> None:
    found = {}
    for folder in sorted(path.parent for path in DATA.glob("*/device.json")):
        table = LatencyTable.open(folder)
        found[folder.name] = {name: compare(name, table) for name in table.networks()}
    print(save("interpolation", {"any_width_rmspe": found}))


def compare(name: str, table: LatencyTable) -> dict[str, float]:
    answer = {"as_it_is": rmspe(name, table)}
    with patch.object(estimate, "find_step", lambda families: STEPS[0]):
        answer["without_channel_step"] = rmspe(name, table)
    for constant in CONSTANTS:
        for factor, word in ((0.5, "half"), (2.0, "double")):
            with patch.object(surface, constant, factor * getattr(surface, constant)):
                answer[f"{word} {constant.strip('_').lower()}"] = rmspe(name, table)
    return answer


def rmspe(name: str, table: LatencyTable) -> float:
    network = Network.load(name)
    model = LatencyModel(network, table)
    unseen = undisturbed(table.settled_runs(network, "unseen"))
    between = [run for run in unseen if model.off_menu(run.architecture)]
    return float(np.sqrt(np.mean(model.errors(between) ** 2)))


if __name__ == "__main__":
    main()
