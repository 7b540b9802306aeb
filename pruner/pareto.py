"""The picture of a comparison: accuracy against measured latency, with error bars."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

MARKERS = "osD^vPX*<>"


def save(summary: Sequence[dict], title: str, dense_accuracy: float, path: Path) -> None:
    """The picture as a file: SVG or PNG, by the path's suffix."""
    plt.rcParams["svg.hashsalt"] = "pruner"  # the same results give the same file
    figure = draw(summary, dense_accuracy)
    figure.suptitle(title)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def draw(summary: Sequence[dict], dense_accuracy: float) -> Figure:
    """One line a method over its budgets, and a point for every smaller member of the family.

    Networks that were not measured are left out.
    """
    figure, axis = plt.subplots(figsize=(7.5, 4.8), layout="constrained")
    shown = [entry for entry in summary if entry["measured"]]
    methods = list(dict.fromkeys(e["method"] for e in shown if e["asked"]))
    for number, method in enumerate(methods):
        points = sorted((e for e in shown if e["method"] == method), key=lambda e: e["measured"])
        axis.errorbar(
            [e["measured"] for e in points],
            [100 * e["accuracy"] for e in points],
            xerr=_bars(points, "measured", 1),
            yerr=_bars(points, "accuracy", 100),
            marker=MARKERS[number % len(MARKERS)], capsize=2, lw=1.2, label=method,
        )  # fmt: skip
    members = [e for e in shown if not e["asked"]]
    if members:
        axis.plot(
            [1.0, *(e["measured"] for e in sorted(members, key=lambda e: e["measured"]))],
            [100 * a for a in _family_line(members, dense_accuracy)],
            "--x", color="#888", lw=1, label="smaller members of the family",
        )  # fmt: skip
    axis.axhline(100 * dense_accuracy, color="#888", lw=0.8)
    axis.set(xlabel="measured speedup", ylabel="test accuracy, %")
    axis.legend(frameon=False, fontsize=8)
    return figure


def _family_line(members: Sequence[dict], dense_accuracy: float) -> list[float]:
    ordered = sorted(members, key=lambda entry: entry["measured"])
    return [dense_accuracy, *(entry["accuracy"] for entry in ordered)]


def _bars(points: Sequence[dict], name: str, scale: float) -> list[list[float]]:
    below = [scale * (e[name] - e[f"{name}_low"]) for e in points]
    above = [scale * (e[f"{name}_high"] - e[name]) for e in points]
    return [below, above]
