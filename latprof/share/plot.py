"""A table as a picture: its staircases, its densities, its predictions of networks it never saw."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np

from latprof import OptionError
from latprof.profile.judge import flops_line
from lookup_tables.model.latency_model import LatencyModel
from lookup_tables.model.staircase import Staircase
from lookup_tables.network import Network
from lookup_tables.table.rows import Widths
from lookup_tables.table.settled import undisturbed
from lookup_tables.table.store import LatencyTable

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SHOWN = 6  # groups: those whose widths decide most of the time
SUFFIXES = (".svg", ".png", ".pdf")


def plot(network: Network, table: LatencyTable, path: str | Path) -> None:
    """Draw them to a file, SVG, PNG or PDF by its suffix; raises OptionError for another.

    The same table gives the same SVG, so that a version control system sees no change.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise OptionError(f"--out {path}: the file's name must end in one of {', '.join(SUFFIXES)}")
    # Text stays text: smaller, and a reader can search it.
    plt.rcParams |= {"svg.hashsalt": "latprof", "svg.fonttype": "none"}
    model = LatencyModel(network, table)
    stairs, count = Staircase(model), 2 + bool(model.sparse_layers)
    figure, axes = plt.subplots(1, count, figsize=(5 * count, 4.2), layout="constrained")
    draw_steps(axes[0], stairs)
    draw_error(axes[-1], model, table)
    if model.sparse_layers:
        draw_densities(axes[1], stairs)
    figure.suptitle(f"{network.name} on {table.device.name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def draw_steps(axis, stairs: Staircase) -> None:
    """The network's time over one group's width, the others dense; dots: widths worth choosing."""
    for group, steps in stairs.most_telling(SHOWN):
        share = [step.width / group.width for step in steps]
        seconds = np.array([step.seconds for step in steps])
        (line,) = axis.plot(share, seconds * 1e3, lw=1, label=f" {group.name}, {group.width}")
        edges = [step for step in steps if step.edge]
        axis.plot(
            [step.width / group.width for step in edges],
            [step.seconds * 1e3 for step in edges],
            "o", ms=3, color=line.get_color(),
        )  # fmt: skip
    axis.set(title="the staircase", xlabel="width, share of the group's", ylabel="the network, ms")
    axis.legend(frameon=False, fontsize=8)


def draw_densities(axis, stairs: Staircase) -> None:
    """The network's time over one density in all sparse layers, beside the dense network's."""
    density, seconds = np.array(stairs.over_density()).T
    axis.plot(density, seconds * 1e3, "o-", ms=3, lw=1, label="one density everywhere")
    axis.axhline(stairs.model.dense_s * 1e3, color="#999", lw=0.8, label="dense, without kernels")
    axis.set(title="leaving out weights", xlabel="share of weights kept", ylabel="the network, ms")
    axis.set(xlim=(0, 1.02), ylim=(0, None))
    axis.legend(frameon=False, fontsize=8)


def draw_error(axis, model: LatencyModel, table: LatencyTable) -> None:
    """Predicted against measured on unseen networks, beside the straight line in MACs.

    Filled: widths on the menu; open: any width.
    """
    network = model.network
    design = table.settled_runs(network, "design")
    unseen = undisturbed(table.settled_runs(network, "unseen"))
    scale, seen = model.dense_s * 1e3, []
    kinds: tuple[tuple[Widths, str | None, str], ...] = (
        ("menu", None, "on the menu"),
        ("any", "none", "any width"),
    )
    for widths, face, text in kinds:
        of_kind, lines = (
            [run for run in runs if model.off_menu(run.architecture) == (widths == "any")]
            for runs in (unseen, design)
        )
        result = table.validation(network.name, widths)
        if not of_kind or not lines or result is None:
            continue
        measured = np.array([run.ratio for run in of_kind]) * scale
        predicted = model.predict_architectures([run.architecture for run in of_kind]).latency_s
        flops = flops_line(network, lines, of_kind) * scale
        for values, colour, what, error in (
            (flops, "#999", "MACs line", result.flops_rmspe),
            (predicted * 1e3, "#167", "latency table", result.rmspe),
        ):
            label = f"{what}, {text}: error {error:.1%}"
            axis.plot(measured, values, "o", mfc=face or colour, color=colour, label=label)
        seen.append(measured)
    if seen:
        low, high = np.concatenate(seen).min() * 0.95, np.concatenate(seen).max() * 1.05
        axis.plot([low, high], [low, high], color="#444", lw=0.8)
        axis.legend(frameon=False, fontsize=8)
    axis.set(title="networks it never saw", xlabel="measured, ms", ylabel="predicted, ms")
