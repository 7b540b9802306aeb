"""The README's picture: predicted against measured on unseen networks, beside the MACs line."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt

from latprof.share.plot import draw_error
from lookup_tables.model.latency_model import LatencyModel
from lookup_tables.network import Network
from lookup_tables.table.home import DATA
from lookup_tables.table.store import LatencyTable

OUT = Path(__file__).parent.parent / "docs" / "predicted_vs_measured.svg"
TABLE = "intel_xeon_processor_1t"
SHOWN = {"resnet56": "ResNet-56, 32×32", "mobilenet_v1": "MobileNet-V1, 224×224"}


def main() -> None:
    plt.rcParams["svg.hashsalt"] = "latprof"  # the same table gives the same file
    table = LatencyTable.open(DATA / TABLE)
    figure, axes = plt.subplots(1, 2, figsize=(9, 4.2), layout="constrained")
    for axis, (name, title) in zip(axes, SHOWN.items(), strict=True):
        draw_error(axis, LatencyModel(Network.load(name), table), table)
        axis.set(title=title)
    figure.suptitle("pruned networks the table never saw, Intel Xeon, one thread")
    OUT.parent.mkdir(exist_ok=True)
    figure.savefig(OUT, metadata={"Date": None})
    print(OUT)


if __name__ == "__main__":
    main()
