"""The README's picture: predicted against measured on unseen networks, beside the FLOPs line."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np

from latprof.validate import flops_line
from lookup_tables.estimate import LatencyModel
from lookup_tables.network import Network
from lookup_tables.table import DATA, LatencyTable

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
    figure.suptitle("40 pruned networks the table never saw, one CPU thread")
    OUT.parent.mkdir(exist_ok=True)
    figure.savefig(OUT, metadata={"Date": None})
    print(OUT)


def draw(axis, network: Network, table: LatencyTable, title: str) -> None:
    model = LatencyModel(network, table)
    unseen = table.settled_runs(network, "unseen")
    scale = model.dense_s * 1e3
    measured = np.array([run.ratio for run in unseen]) * scale
    flops = flops_line(network, table.settled_runs(network, "design"), unseen) * scale
    predicted = model.predict_architectures([run.architecture for run in unseen]).latency_s * 1e3
    result = table.validation(network.name)
    axis.plot(
        measured,
        flops,
        "o",
        mfc="none",
        color="#999",
        label=f"FLOPs line, error {result.flops_rmspe:.1%}",
    )
    axis.plot(
        measured, predicted, "o", color="#167", label=f"latency table, error {result.rmspe:.1%}"
    )
    low, high = measured.min() * 0.95, measured.max() * 1.05
    axis.plot([low, high], [low, high], color="#444", lw=0.8)
    axis.set(title=title, xlabel="measured, ms", ylabel="predicted, ms")
    axis.legend(frameon=False)


if __name__ == "__main__":
    main()
