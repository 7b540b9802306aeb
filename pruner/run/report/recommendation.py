"""A recommendation's page and picture: what every way of making a network faster keeps."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from pruner.run.report import page, pictures
from pruner.run.report.pareto import GREY, MARKERS, pareto_front, write

HEADING = ["way", "budget", "predicted", "measured", "over dense FP32", "held out", "test"]


def recommendation_rows(content: dict) -> list[list[str]]:
    """What is printed and put on the page, a row for every way and budget."""
    return [_cells(row) for row in content["rows"]]


def write_recommendation(out: Path, title: str, content: dict) -> None:
    """Write recommend.svg and report.html of `content`, which is that of recommend.json."""
    figure = draw(content["rows"], content["budgets_ms"])
    figure.suptitle(title)
    write(figure, out / "recommend.svg")
    rows = [[html.escape(cell) for cell in cells] for cells in recommendation_rows(content)]
    for row, cells in zip(content["rows"], rows, strict=True):
        if row["folder"] and (out / row["folder"] / "report.html").exists():
            cells[0] = page.link(row["way"], f"{row['folder']}/report.html")
        if row["recommended"]:
            cells[0] = f"<b>{cells[0]}</b>"
    with plt.rc_context(pictures.PAGE):
        figure = draw(content["rows"], content["budgets_ms"])
        picture = pictures.as_svg(figure, "test accuracy against latency, way by way")
    page.write_page(
        out / "report.html",
        title,
        [
            page.pictures({"Test accuracy against latency": picture}),
            page.table_of_html(HEADING, rows),
            page.paragraph(
                "Ways are judged by held-out training images, on which nothing here was trained. "
                "Marks are measured latencies, hollow ones predictions; dotted lines are budgets. "
                "The broad line joins what nothing faster surpasses."
            ),
        ],
    )


def draw(rows: Sequence[dict], budgets_ms: Sequence[float]) -> Figure:
    """Test accuracy over latency, one mark for every row that has both."""
    figure, axis = plt.subplots(figsize=(7.5, 4.8), layout="constrained")
    shown = [row for row in rows if row["latency_ms"] and row["accuracy"] is not None]
    names = list(dict.fromkeys(row["way"] for row in shown))
    for number, name in enumerate(names):
        own = [row for row in shown if row["way"] == name]
        for place, row in enumerate(own):
            color = GREY if row["budget_ms"] is None and row["folder"] is None else f"C{number}"
            axis.plot(
                _latency(row), 100 * row["accuracy"], MARKERS[number % len(MARKERS)], color=color,
                mfc=color if row["measured_ms"] else "none", ms=11 if row["recommended"] else 6,
                label=name if place == 0 else None,
            )  # fmt: skip
    x = np.array([_latency(row) for row in shown])
    y = np.array([100 * row["accuracy"] for row in shown])
    front = pareto_front(x, y)
    axis.step(x[front], y[front], where="post", color=GREY, lw=4, alpha=0.25)
    for budget in budgets_ms:
        axis.axvline(budget, color=GREY, lw=1, ls=":")
    axis.set(xlabel="latency, ms", ylabel="test accuracy, %")
    axis.legend(frameon=False, fontsize=8)
    return figure


def _latency(row: dict) -> float:
    return row["measured_ms"] or row["latency_ms"]


def _cells(row: dict) -> list[str]:
    name = f"* {row['way']}" if row["recommended"] else row["way"]
    budget = f"{row['budget_ms']:.3g} ms" if row["budget_ms"] else ""
    if row["refused"]:
        return [name, budget, row["refused"], "", "", "", ""]
    return [
        name,
        budget,
        _or_nothing(row["latency_ms"], "{:.3g} ms"),
        _or_nothing(row["measured_ms"], "{:.3g} ms"),
        _or_nothing(row["speedup"], "{:.2f}×"),
        _or_nothing(row["held_out"], "{:.2%}"),
        _or_nothing(row["accuracy"], "{:.2%}"),
    ]


def _or_nothing(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)
