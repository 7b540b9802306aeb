"""How well a table predicts what a search found: the networks of a front, measured.

Up to so many networks of a search's front, spread over its latencies, run beside the dense one on
the table's device. None of them is known to the table.

    python -m benchmarks.front_error RUN [--table FOLDER]
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.results import save
from latprof.profile.judge import measured_beside_dense, rank_correlation
from lookup_tables.architecture import Architecture
from lookup_tables.model.latency_model import LatencyModel
from lookup_tables.table.settled import undisturbed
from lookup_tables.table.store import LatencyTable
from pruner.run.folder import RunFolder, read_json


def main(
    run: Annotated[Path, typer.Argument(help="a search's folder")],
    table: Annotated[Path | None, typer.Option(help="where it lies now")] = None,
    count: int = 40,
) -> None:
    searched = RunFolder.open(run)
    front = read_json(searched.front)
    opened = LatencyTable.open(table or searched.settings.table)
    network = opened.load_network(searched.origin()["priced_by"])
    model = LatencyModel(network, opened)
    known = {row.architecture for row in opened.runs(network)}
    points = [p | {"architecture": Architecture(**p["architecture"])} for p in front["points"]]
    points = [point for point in points if point["architecture"] not in known]
    places = np.unique(np.linspace(0, len(points) - 1, min(count, len(points))).round().astype(int))
    chosen = [points[place] for place in places]
    runs = measured_beside_dense(network, opened, [p["architecture"] for p in chosen], _say)
    quiet = {each.run for each in undisturbed(runs)}
    rows = [
        {
            "accuracy": point["accuracy"],
            "macs_kept": point["macs_kept"],
            "predicted": model.dense_s / model.latency_s(each.architecture),
            "measured": 1 / each.ratio,
            "removed": len(each.architecture.removed),
            "sparse_layers": len(each.architecture.density),
        }
        for point, each in zip(chosen, runs, strict=True)
        if each.run in quiet
    ]
    predicted, measured = (np.array([row[k] for row in rows]) for k in ("predicted", "measured"))
    errors = measured / predicted - 1  # of the predicted latency
    content = {
        "device": opened.device.name, "network": network.name, "method": front["method"],
        "scored": len(searched.search_log.read_text().splitlines()),
        "search_s": searched.seconds_spent().get("search"),
        "networks_of_front": len(front["points"]),
        "measured": len(rows), "of": len(chosen),
        "rmspe": float(np.sqrt(np.mean(errors**2))), "bias": float(np.mean(errors)),
        "worst": float(np.abs(errors).max()),
        "rank_correlation": rank_correlation(predicted, measured), "rows": rows,
    }  # fmt: skip
    print({name: value for name, value in content.items() if name != "rows"})
    print(save(f"front_error_{network.name}_{opened.device.name}", content))


def _say(done: int, total: int, text: str) -> None:
    print(f"{done}/{total} {text}", flush=True)


if __name__ == "__main__":
    typer.run(main)
