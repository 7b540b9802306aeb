"""The README's picture: predicted against measured on unseen networks, beside the FLOPs line.

Filled: widths on the menu; open: any width from a quarter to full.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np

from latprof.validate import flops_line
from lookup_tables.estimate import LatencyModel
from lookup_tables.network import Network
from lookup_tables.table import DATA, LatencyTable, undisturbed

matplotlib.use("Agg")
import matplotlib.pyplot as plt

OUT = Path(__file__).parent.parent / "docs" / "predicted_vs_measured.svg"
SHOWN = {"resnet56": "ResNet-56, 32×32", "mobilenet_v1": "MobileNet-V1, 224×224"}


def main() -> None:
    plt.rcParams["svg.hashsalt"] = "latprof"  # the same table gives the same file
    folder = next(path.parent for path in sorted(DATA.glob("*/resnet56.jsonl")))
    figure, axes = plt.subplots(1, 2, figsize=(9, 4.2), layout="constrained")
    for axis, (name, title) in zip(axes, SHOWN.items(), strict=True):
        draw(axis, Network.load(name), LatencyTable.open(folder), title)
    figure.suptitle("pruned networks the table never saw, one CPU thread")
    OUT.parent.mkdir(exist_ok=True)
    figure.savefig(OUT, metadata={"Date": None})
    print(OUT)


def draw(axis, network: Network, table: LatencyTable, title: str) -> None:
    model = LatencyModel(network, table)
    design = table.settled_runs(network, "design")
    scale, seen = model.dense_s * 1e3, []
    for widths, face, text in (("menu", None, "on the menu"), ("any", "none", "any width")):
        of_kind, lines = (
            [run for run in runs if model.off_menu(run.architecture) == (widths == "any")]
            for runs in (undisturbed(table.settled_runs(network, "unseen")), design)
        )
        measured = np.array([run.ratio for run in of_kind]) * scale
        predicted = model.predict_architectures([run.architecture for run in of_kind]).latency_s
        flops = flops_line(network, lines, of_kind) * scale
        result = table.validation(network.name, widths)
        for values, colour, what, error in (
            (flops, "#999", "FLOPs line", result.flops_rmspe),
            (predicted * 1e3, "#167", "latency table", result.rmspe),
        ):
            label = f"{what}, {text}: error {error:.1%}"
            axis.plot(measured, values, "o", mfc=face or colour, color=colour, label=label)
        seen.append(measured)
    low, high = np.concatenate(seen).min() * 0.95, np.concatenate(seen).max() * 1.05
    axis.plot([low, high], [low, high], color="#444", lw=0.8)
    axis.set(title=title, xlabel="measured, ms", ylabel="predicted, ms")
    axis.legend(frameon=False, fontsize=8)


if __name__ == "__main__":
    main()
