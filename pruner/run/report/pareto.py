"""The picture of a comparison: accuracy against measured latency, with error bars."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

MARKERS = "osD^vPX*<>"
GREY = "#888888"


def save(
    summary: Sequence[dict],
    title: str,
    dense_accuracy: float,
    path: Path,
    dense_ms: float | None = None,
) -> None:
    """The picture as a file: SVG or PNG, by the path's suffix."""
    figure = draw(summary, dense_accuracy, dense_ms)
    figure.suptitle(title)
    write(figure, path)


def write(figure: Figure, path: Path) -> None:
    """A figure as a file, closed then; the same results give the same file."""
    plt.rcParams["svg.hashsalt"] = "pruner"
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def draw(summary: Sequence[dict], dense_accuracy: float, dense_ms: float | None = None) -> Figure:
    """One line a method over its budgets, and one of the smaller members of the family.

    A latency is that of the dense network by the speedup that was measured beside it: in
    milliseconds where `dense_ms` is known, else as a share. Networks that were not measured stand,
    hollow, where the table predicts them.
    """
    figure, axis = plt.subplots(figsize=(7.5, 4.8), layout="constrained")
    unit = dense_ms or 1.0
    shown = [entry for entry in summary if entry["measured"] or entry["predicted"]]
    asked = [entry for entry in shown if entry["asked"]]
    for number, method in enumerate(dict.fromkeys(entry["method"] for entry in asked)):
        own = [entry for entry in asked if entry["method"] == method]
        _series(axis, own, unit, method, f"C{number}", MARKERS[number % len(MARKERS)], "-")
    dense = {
        "accuracy": dense_accuracy, "accuracy_low": dense_accuracy, "accuracy_high": dense_accuracy,
        "measured": 1.0, "measured_low": 1.0, "measured_high": 1.0,
    }  # fmt: skip
    family = [dense, *(entry for entry in shown if not entry["asked"])]
    label = "smaller members of the family" if len(family) > 1 else "dense"
    _series(axis, family, unit, label, GREY, "x", "--")
    _best(axis, [entry for entry in (*shown, dense) if entry["measured"]], unit)
    axis.set(xlabel="latency, ms" if dense_ms else "latency, share of the dense network's")
    axis.set(ylabel="test accuracy, %")
    speedups_on_top(axis, unit)
    axis.legend(frameon=False, fontsize=8)
    return figure


def speedups_on_top(axis: Axes, dense: float) -> None:
    """A second scale, of speedups over a dense latency in the units of the first one."""

    def either_way(x: ArrayLike) -> ArrayLike:
        """A latency's speedup, and a speedup's latency."""
        return dense / np.maximum(x, 1e-9)

    axis.secondary_xaxis("top", functions=(either_way, either_way)).set_xlabel("speedup")


def _series(
    axis: Axes, entries: Sequence[dict], unit: float, label: str, color: str, marker: str, line: str
) -> None:
    points = sorted(entries, key=_speedup)
    x, y = [unit / _speedup(e) for e in points], [100 * e["accuracy"] for e in points]
    axis.plot(x, y, line, color=color, lw=1)
    for number, entry in enumerate(points):
        axis.errorbar(
            x[number], y[number],
            xerr=_latency_bar(entry, unit), yerr=_accuracy_bar(entry),
            marker=marker, color=color, capsize=2,
            mfc=color if entry["measured"] else "none",
            label=label if number == 0 else None,
        )  # fmt: skip


def _best(axis: Axes, entries: Sequence[dict], unit: float) -> None:
    """The step under what nothing faster surpasses."""
    x = np.array([unit / entry["measured"] for entry in entries])
    y = np.array([100 * entry["accuracy"] for entry in entries])
    front = pareto_front(x, y)
    axis.step(x[front], y[front], where="post", color=GREY, lw=4, alpha=0.25)


def pareto_front(cost: np.ndarray, value: np.ndarray) -> list[int]:
    """Indices of what nothing cheaper surpasses, the cheapest first."""
    order = np.lexsort((-value, cost))
    front, best = [], -np.inf
    for index in order:
        if value[index] > best:
            front.append(int(index))
            best = value[index]
    return front


def _speedup(entry: dict) -> float:
    return entry["measured"] or entry["predicted"]


def _latency_bar(entry: dict, unit: float) -> list[list[float]] | None:
    if not entry["measured"]:
        return None
    latencies = [unit / entry[name] for name in ("measured_high", "measured", "measured_low")]
    return [[high - low] for low, high in pairwise(latencies)]


def _accuracy_bar(entry: dict) -> list[list[float]]:
    low, mean, high = (entry[name] for name in ("accuracy_low", "accuracy", "accuracy_high"))
    return [[100 * (mean - low)], [100 * (high - mean)]]
