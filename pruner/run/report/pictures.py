"""Pictures inside a page: SVG that takes the page's own text colour, dark or light."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib
import numpy as np

from lookup_tables.architecture import Architecture
from lookup_tables.model.latency_model import LatencyModel
from lookup_tables.model.staircase import Staircase
from pruner.run.report import pareto

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType  # older ones have none

INK = "#010203"  # becomes the page's text colour
GREY, GREEN, ORANGE = "#888888", "#44aa88", "#cc7744"
GROUPS = 6  # of which the staircase is drawn: those whose widths decide most of the time
PAGE: dict[RcKeyType, str | bool | int] = {
    "svg.fonttype": "none",  # text stays text: readable aloud, and small
    "svg.hashsalt": "pruner",  # the same results give the same picture
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "font.size": 10,
}


def search_course(accuracies: Sequence[float], within: Sequence[bool]) -> str:
    """What was scored, one network after the other, and the best until then of those `within`
    the budget."""
    with plt.rc_context(PAGE):
        figure, axis = _figure()
        scored = np.arange(1, len(accuracies) + 1)
        percent, fits = 100 * np.array(accuracies), np.array(within, dtype=bool)
        axis.plot(scored, percent, ".", color=GREY, ms=4, label="scored")
        best = np.maximum.accumulate(np.where(fits, percent, -np.inf))
        axis.step(scored, best, where="post", color=GREEN, label="best within the budget so far")
        axis.set(xlabel="networks scored", ylabel="accuracy before fine-tuning, %")
        axis.legend(frameon=False)
        return as_svg(figure, f"accuracy of the {len(accuracies)} networks that the search scored")


def search_cloud(
    latencies_s: Sequence[float], accuracies: Sequence[float], chosen: int | None, budget_s: float
) -> str:
    """Everything the search scored: accuracy against predicted latency, with the best of it.

    `chosen` counts from 0; None where what was chosen is not among it.
    """
    with plt.rc_context(PAGE):
        figure, axis = _figure()
        milliseconds, percent = 1e3 * np.array(latencies_s), 100 * np.array(accuracies)
        axis.plot(milliseconds, percent, ".", color=GREY, ms=4, label="scored")
        front = pareto.pareto_front(milliseconds, percent)
        axis.plot(
            milliseconds[front], percent[front], drawstyle="steps-post", color=GREEN,
            label="best for its time",
        )  # fmt: skip
        if chosen is not None:
            axis.plot(milliseconds[chosen], percent[chosen], "o", color=ORANGE, label="chosen")
        axis.axvline(1e3 * budget_s, color=INK, lw=0.8, ls=":", label="asked")
        axis.set(xlabel="predicted, ms", ylabel="accuracy before fine-tuning, %")
        axis.legend(frameon=False)
        return as_svg(figure, f"{len(accuracies)} networks that were scored: accuracy over time")


def loss_course(losses: Sequence[float]) -> str:
    """The loss of every epoch."""
    with plt.rc_context(PAGE):
        figure, axis = _figure()
        axis.plot(np.arange(1, len(losses) + 1), losses, ".-", color=GREEN)
        axis.set(xlabel="epoch", ylabel="loss")
        said = f"loss {losses[0]:.3f} → {losses[-1]:.3f}"
        return as_svg(figure, said)


def accuracy_course(training: Sequence[float], held_out: Sequence[float | None]) -> str:
    """The share of images right in every epoch, of held-out ones where they were looked at."""
    with plt.rc_context(PAGE):
        figure, axis = _figure()
        epochs = np.arange(1, len(training) + 1)
        axis.plot(epochs, 100 * np.array(training), ".-", color=GREEN, label="training, augmented")
        if None not in held_out:
            axis.plot(epochs, 100 * np.array(held_out), ".-", color=ORANGE, label="held out")
        axis.set(xlabel="epoch", ylabel="right, %")
        axis.legend(frameon=False)
        return as_svg(figure, f"training images right {training[0]:.1%} → {training[-1]:.1%}")


def comparison(summary: Sequence[dict], dense_accuracy: float, dense_ms: float | None) -> str:
    """All methods of a comparison: accuracy against measured latency."""
    with plt.rc_context(PAGE):
        figure = pareto.draw(summary, dense_accuracy, dense_ms)
        return as_svg(figure, "test accuracy against measured latency, method by method")


def staircase(latency: LatencyModel, architecture: Architecture) -> str:
    """The network's time over the widths of its most telling groups, and what was chosen.

    Each with the other groups as in the architecture; dots are right edges.
    """
    stairs, chosen = Staircase(latency), latency.network.widths(architecture)
    with plt.rc_context(PAGE):
        figure, axis = _figure()
        for group, steps in stairs.most_telling(GROUPS, architecture):
            share = np.array([step.width for step in steps]) / group.width
            milliseconds = 1e3 * np.array([step.seconds for step in steps])
            name = f" {group.name}: {chosen[group.name]} of {group.width}"  # _names are not shown
            (line,) = axis.plot(share, milliseconds, lw=1, label=name)
            edge = np.array([step.edge for step in steps])
            axis.plot(share[edge], milliseconds[edge], ".", ms=5, color=line.get_color())
            here = [step.width for step in steps].index(chosen[group.name])
            axis.plot(
                share[here], milliseconds[here], "o", ms=9, mfc="none", color=line.get_color()
            )
        axis.set(xlabel="width, share of the group's", ylabel="the pruned network, ms")
        axis.legend(frameon=False)
        return as_svg(figure, "time over width; rings are the widths chosen, dots right edges")


def as_svg(figure: Figure, said: str) -> str:
    """An <svg> element for a page; `said` is what a screen reader reads out."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    plt.close(figure)
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r' id="[\w.]+_\d+"', "", text)  # the same in every picture, and unused
    text = re.sub(
        r'<svg[^>]*viewBox="([^"]*)"[^>]*>',
        rf'<svg viewBox="\1" role="img" aria-label="{html.escape(said)}">',
        text,
        count=1,
    )
    return text.replace("xlink:href", "href").replace(INK, "currentColor")


def _figure():
    return plt.subplots(figsize=(5.2, 3.6), layout="constrained")
