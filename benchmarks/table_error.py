"""How wrong the committed tables are: their own validation, and what calibration is worth.

Reads the tables only. The unseen architectures were measured by `latprof profile` after the design
runs, beside the dense network like them.
"""

from __future__ import annotations

import numpy as np

from benchmarks.results import save
from latprof.profile.judge import validation
from lookup_tables.model.latency_model import LatencyModel
from lookup_tables.network import Network
from lookup_tables.table.home import DATA
from lookup_tables.table.settled import undisturbed
from lookup_tables.table.store import LatencyTable


def main() -> None:
    tables = {}
    for folder in sorted(path.parent for path in DATA.glob("*/device.json")):
        table = LatencyTable.open(folder)
        tables[folder.name] = {
            "device": table.device.model_dump(exclude_none=True),
            "networks": {name: describe(name, table) for name in table.networks()},
        }
    print(save("table_error", {"tables": tables}))


def describe(name: str, table: LatencyTable) -> dict:
    """One network's errors on its menu and at any width, as the profiler wrote them, checked."""
    network = Network.load(name)
    model = LatencyModel(network, table)
    runs = table.runs(network)
    answer = {
        "runs": len(runs),
        "repeated_runs": sum(run.attempt > 0 for run in runs),
        "dense_ms": model.dense_s * 1e3,
        "steps": {kind: step._asdict() for kind, step in model.steps.items()},
        "rmspe_without_node_overhead": _rmspe_of_scaled_sum(network, table, model),
    }
    for widths in ("menu", "any"):
        written = table.validation(name, widths)
        unseen = table.settled_runs(network, "unseen")
        again = validation(model, table, unseen, widths, written.measuring_s)
        assert abs(again.rmspe - written.rmspe) < 1e-6, "the table's own error does not hold"
        answer[widths] = written.model_dump(exclude={"row", "widths"}, exclude_none=True)
    return answer


def _rmspe_of_scaled_sum(
    network: Network, table: LatencyTable, model: LatencyModel
) -> float | None:
    """The same entries on the menu with the plain calibration a · sum + b, no term for nodes.

    None where no unseen network consists of measured entries only.
    """
    shares = model.shares

    def total(run) -> float:
        specs = network.layer_specs(run.architecture)
        return sum(shares.get(spec, np.nan) for _, spec in specs)

    design = undisturbed(table.settled_runs(network, "design"))
    x = np.array([[total(run), 1.0] for run in design])
    y = np.array([run.ratio for run in design])
    line, *_ = np.linalg.lstsq(x / y[:, None], np.ones(len(y)), rcond=None)
    unseen = [
        run
        for run in undisturbed(table.settled_runs(network, "unseen"))
        if not np.isnan(total(run))
    ]
    if not unseen:
        return None
    predicted = np.array([[total(run), 1.0] for run in unseen]) @ line
    errors = predicted / [run.ratio for run in unseen] - 1
    return float(np.sqrt(np.mean(errors**2)))


if __name__ == "__main__":
    main()
