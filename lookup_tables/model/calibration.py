"""Calibration: from layers timed inside networks to the latency of whole networks.

    latency / dense latency = a · Σ layer seconds / dense seconds + c · layers + d · inserted + b

`c` takes out what the runtime's profiler adds to a layer's own node (some microseconds on CPU), `d`
what it adds to a node that the runtime inserted to change a layout, `b` is what a network costs
beyond its layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lookup_tables.layer import LayerSpec
from lookup_tables.table.rows import Run

# What one expects of a and of (c, d, b) · dense seconds before measuring, and by how much it may
# differ; without it they cannot be told apart on networks whose node count never changes. A run's
# constant cost is some microseconds, however large the network: given more freedom it takes up
# errors of large networks, and is then far too large for one that was cut to a fiftieth.
_PRIOR_MEAN = np.array([1.0, 0.0, 0.0, 0.0])
_PRIOR_SPREAD = np.array([0.2, 10e-6, 10e-6, 20e-6])  # -, seconds, seconds, seconds
_RUN_NOISE = 0.01  # relative, of one whole-network ratio


@dataclass(frozen=True)
class Calibration:
    """latency / dense = a · Σ seconds / dense + c · layers + d · inserted nodes + b."""

    a: float
    c: float
    d: float
    b: float

    def __call__(self, share: float, nodes: float) -> float:
        """A layer's calibrated share of the dense latency."""
        own, inserted = split(nodes)
        return self.a * share + self.c * own + self.d * inserted


def split(nodes: float) -> tuple[float, float]:
    """(the layer's own node, 0 if it was fused away; nodes inserted for its output)."""
    return min(nodes, 1.0), max(nodes - 1.0, 0.0)


def layer_shares(runs: list[Run]) -> tuple[dict[LayerSpec, float], dict[LayerSpec, float]]:
    """LayerSpec → seconds / dense seconds (median over runs) and nodes (median)."""
    shares: dict[LayerSpec, list[float]] = {}
    nodes: dict[LayerSpec, list[int]] = {}
    for run in runs:
        for entry in run.layers:
            shares.setdefault(entry.layer, []).append(entry.seconds / run.dense_s)
            nodes.setdefault(entry.layer, []).append(entry.nodes)
    # Median, not mean: one interruption among eight runs should not move the answer.
    return (
        {spec: float(np.median(values)) for spec, values in shares.items()},
        {spec: float(np.median(values)) for spec, values in nodes.items()},
    )


def calibrate(runs: list[Run], shares, nodes, dense_s: float) -> Calibration:
    """Ridge regression of relative errors towards the prior."""
    rows = [
        [
            sum(shares[entry.layer] for entry in run.layers),
            *np.sum([split(nodes[entry.layer]) for entry in run.layers], axis=0),
            1.0,
        ]
        for run in runs
    ]
    ratios = np.array([run.ratio for run in runs])
    features = np.array(rows) / ratios[:, None]
    spread = _PRIOR_SPREAD / np.array([1.0, dense_s, dense_s, dense_s])
    precision = np.diag(1 / spread**2)
    gram = features.T @ features / _RUN_NOISE**2 + precision
    target = features.T @ np.ones(len(runs)) / _RUN_NOISE**2 + precision @ _PRIOR_MEAN
    return Calibration(*map(float, np.linalg.solve(gram, target)))
