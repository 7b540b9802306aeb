"""How many ResNet-56 architectures a second the latency model answers, in batches, on one core."""

from __future__ import annotations

import os
import statistics
import time

import numpy as np

from benchmarks.results import save
from lookup_tables.model.latency_model import LatencyModel
from lookup_tables.network import Network
from lookup_tables.table.home import DATA

COUNT, REPEATS = 200_000, 9


def main() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one core, whatever NumPy may do
    network = Network.load("resnet56")
    model = LatencyModel.load(network, DATA / "intel_xeon_processor_1t")
    rng = np.random.default_rng(0)
    on_menu = np.stack([rng.choice(g.choices, COUNT) for g in network.groups], axis=1)
    any_width = np.stack(
        [rng.integers(-(-g.width // 4), g.width + 1, COUNT // 10) for g in network.groups], axis=1
    )
    removed = rng.random((COUNT, len(network.blocks))) < 0.3
    speeds = {
        "widths_on_the_menu": rates(lambda: model.predict(on_menu), COUNT),
        "with_removed_blocks": rates(lambda: model.predict(on_menu, removed), COUNT),
        "any_widths": rates(lambda: model.predict(any_width), COUNT // 10),
    }
    print(save("latency_model_speed", {"architectures_per_second": speeds, "batch": COUNT}))


def rates(ask, count: int) -> dict[str, float]:
    """Architectures per second: median, lowest and highest of several repeats."""
    ask()
    found = []
    for _ in range(REPEATS):
        start_s = time.perf_counter()
        ask()
        found.append(count / (time.perf_counter() - start_s))
    return {"median": statistics.median(found), "lowest": min(found), "highest": max(found)}


if __name__ == "__main__":
    main()
