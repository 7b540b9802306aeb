"""The picture of fronts: accuracy before fine-tuning against predicted latency."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from pruner.run.report.pareto import GREY, MARKERS, speedups_on_top, write


def save_fronts(fronts: Mapping[str, dict], path: Path) -> None:
    """One step line a front, by its name; SVG or PNG, by the path's suffix."""
    figure, axis = plt.subplots(figsize=(7.5, 4.8), layout="constrained")
    for number, (name, front) in enumerate(fronts.items()):
        x = [point["latency_ms"] for point in front["points"]]
        y = [100 * point["accuracy"] for point in front["points"]]
        marker = MARKERS[number % len(MARKERS)]
        axis.plot(x, y, marker, ms=4, color=f"C{number}", label=name)
        axis.step(x, y, where="post", lw=1, color=f"C{number}")
    first = next(iter(fronts.values()))
    dense_ms = first["dense_ms"]
    axis.axvline(dense_ms, color=GREY, ls="--", lw=1, label="dense")
    axis.set(xlabel="predicted latency, ms", ylabel="accuracy before fine-tuning, %")
    axis.set_title(f"{first['model']} on {first['device']}")
    speedups_on_top(axis, dense_ms)
    axis.legend(frameon=False, fontsize=8)
    write(figure, path)
