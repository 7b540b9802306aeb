"""The picture of fronts: accuracy before fine-tuning against predicted latency."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from pruner.run.report.pareto import MARKERS


def save_fronts(fronts: Mapping[str, dict], path: Path) -> None:
    """One step line a front, by its name; SVG or PNG, by the path's suffix."""
    plt.rcParams["svg.hashsalt"] = "pruner"  # the same results give the same file
    figure, axis = plt.subplots(figsize=(7.5, 4.8), layout="constrained")
    for number, (name, front) in enumerate(fronts.items()):
        x = [point["latency_ms"] for point in front["points"]]
        y = [100 * point["accuracy"] for point in front["points"]]
        marker = MARKERS[number % len(MARKERS)]
        axis.plot(x, y, marker, ms=4, color=f"C{number}", label=name)
        axis.step(x, y, where="post", lw=1, color=f"C{number}")
    first = next(iter(fronts.values()))
    dense_ms = first["dense_ms"]
    axis.axvline(dense_ms, color="#888888", ls="--", lw=1, label="dense")
    axis.set(xlabel="predicted latency, ms", ylabel="accuracy before fine-tuning, %")
    axis.set_title(f"{first['model']} on {first['device']}")

    def either_way(x):
        """A latency's speedup, and a speedup's latency."""
        return dense_ms / np.maximum(x, 1e-9)

    axis.secondary_xaxis("top", functions=(either_way, either_way)).set_xlabel("speedup")
    axis.legend(frameon=False, fontsize=8)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)
