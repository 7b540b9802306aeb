"""What it is worth to measure on the core that is quiet just now (latprof/machine/cores.py).

First the dense network alone on every core by turns: how often each is slow, and all at once. Then
some pruned networks, each measured twice bound to one core and twice free to move: how far the two
ratios differ, and how many runs found no quiet moment.
"""

from __future__ import annotations

import os
import time
from unittest.mock import patch

import numpy as np

from benchmarks.results import save
from latprof.machine.cores import Cores
from latprof.onnx.writer import build, random_input
from latprof.profile.bench import Bench
from latprof.profile.design import unseen
from latprof.runtimes.here import this_device
from latprof.runtimes.ort_cpu import Running
from lookup_tables.network import INPUT, Network
from lookup_tables.noise import SLOW_PHASE

NETWORKS = ("resnet56", "mobilenet_v1")
ALTERNATING_S, RUNS = 60, 30
ARCHITECTURES, TARGET_S = 24, 0.15


def main() -> None:
    print(
        save(
            "cores",
            {name: {"dense": slow_phases(name)} | paired(name) for name in NETWORKS},
        )
    )


def slow_phases(name: str) -> dict:
    """Share of the time in which each core, and every core at once, was slow."""
    network, device = Network.load(name), this_device()
    model = build(network, network.dense).SerializeToString()
    dense = Running(model, {INPUT: random_input(network)}, device)
    medians, start_s = [], time.perf_counter()
    with Cores(device) as cores:
        while time.perf_counter() - start_s < ALTERNATING_S:
            row = {}
            for _ in range(len(cores)):
                dense.run_s()
                (core,) = os.sched_getaffinity(0)
                row[core] = float(np.median([dense.run_s() for _ in range(RUNS)]))
                cores.move()
            medians.append([row[core] for core in sorted(row)])
    times_s = np.array(medians)
    slow = times_s > SLOW_PHASE * np.percentile(times_s, 5)
    return {
        "turns": len(times_s),
        "slow_share_of_each_core": slow.mean(axis=0).tolist(),
        "slow_share_of_all_at_once": float(slow.all(axis=1).mean()),
        "correlation": float(np.corrcoef(times_s[:, :2].T)[0, 1]),
    }


def paired(name: str) -> dict:
    """Bound and free, alternating: how well ratios repeat."""
    network, device = Network.load(name), this_device()
    bench = Bench(network, device, TARGET_S)
    ratios: dict[str, list] = {"bound": [], "free": []}
    slow: dict[str, list] = {"bound": [], "free": []}
    spent_s = {"bound": 0.0, "free": 0.0}
    for architecture in unseen(network, ARCHITECTURES, seed=11):
        for kind in ("bound", "free", "free", "bound"):
            with patch.object(Cores, "saw", _stay if kind == "bound" else Cores.saw):
                sample = bench.measure(architecture, instrumented=False)
            ratios[kind].append(sample.ratio)
            slow[kind].append(sample.dense_s)
            spent_s[kind] += sample.measuring_s
    quiet_s = np.percentile([*slow["bound"], *slow["free"]], 10)
    answer = {}
    for kind, values in ratios.items():
        first, second = np.array(values).reshape(-1, 2).T
        answer[kind] = {
            "median_difference_of_two": float(np.median(np.abs(first / second - 1))),
            "difference_of_two_95": float(np.percentile(np.abs(first / second - 1), 95)),
            "slow_share": float(np.mean(np.array(slow[kind]) > SLOW_PHASE * quiet_s)),
            "measuring_s": spent_s[kind],
        }
    return answer


def _stay(cores: Cores, quiet: bool) -> None:
    """Instead of Cores.saw: never move."""


if __name__ == "__main__":
    main()
