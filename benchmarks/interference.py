"""Why layer times get a series of rounds of their own: what a third network between the two does.

Each architecture's ratio to the dense network is measured twice: with the two alternating, and
with its instrumented copy running third in every round.
"""

from __future__ import annotations

import numpy as np

from benchmarks.results import save
from latprof.onnx.writer import build, random_input
from latprof.profile.design import unseen
from latprof.runtimes.here import this_device
from latprof.runtimes.ort_cpu import Instrumented, Running
from lookup_tables.network import INPUT, Network

ARCHITECTURES, ROUNDS, WARM_UP = 12, 40, 5


def main() -> None:
    print(save("interference", {n: shifts(n) for n in ("resnet56", "mobilenet_v1")}))


def shifts(name: str) -> dict:
    """ratio with a third network / ratio without, over some architectures."""
    network, device = Network.load(name), this_device()
    feed = {INPUT: random_input(network)}
    dense = Running(build(network, network.dense), feed, device)
    found = []
    for architecture in unseen(network, ARCHITECTURES, seed=5):
        model = build(network, architecture).SerializeToString()
        pruned = Running(model, feed, device)
        third = Instrumented(network, architecture, model, feed, device)
        pairs, triples = _ratio(dense, pruned, None), _ratio(dense, pruned, third)
        found.append(triples / pairs)
    return {
        "median_shift": float(np.median(found)),
        "lowest": float(min(found)),
        "highest": float(max(found)),
        "architectures": ARCHITECTURES,
    }


def _ratio(dense: Running, pruned: Running, third: Instrumented | None) -> float:
    ratios = []
    for _ in range(WARM_UP + ROUNDS):
        dense_s, pruned_s = dense.run_s(), pruned.run_s()
        if third is not None:
            third.run_s()
        ratios.append(pruned_s / dense_s)
    return float(np.median(ratios[WARM_UP:]))


if __name__ == "__main__":
    main()
