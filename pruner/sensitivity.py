"""Latency sensitivity: how many seconds pruning a group really buys, from the table alone.

LAP (Neural Networks 152, 2022) uses latency sensitivity as prior knowledge; its formula could not
be found. Ours: dT_l(w) = latency with group l at width w, the others full, taken from the dense
latency T, and LS_l = mean over the menu of dT_l(w) / ((1 − w / W_l) · T), divided by the largest.
"""

from __future__ import annotations

import numpy as np

from lookup_tables.estimate import LatencyModel


def latency_sensitivity(model: LatencyModel) -> np.ndarray:
    """LS_l of every group, (groups,), in [0, 1]; 1 is the group whose channels cost most."""
    network = model.network
    full = np.array([group.width for group in network.groups])
    dense_s = float(model.predict(full[None]).latency_s[0])
    means = []
    for index, group in enumerate(network.groups):
        thinner = np.array([width for width in group.choices if width < group.width])
        if not len(thinner):
            means.append(0.0)
            continue
        widths = np.repeat(full[None], len(thinner), axis=0)
        widths[:, index] = thinner
        saved = (dense_s - model.predict(widths).latency_s) / dense_s
        means.append(float(np.mean(saved / (1 - thinner / group.width))))
    sensitivity = np.maximum(means, 0.0)
    return sensitivity / max(sensitivity.max(), 1e-12)


def local_slope(model: LatencyModel, widths: np.ndarray, index: int) -> float:
    """Share of the present latency that the next smaller width of one group saves.

    `widths`: (groups,) on the menu. It sees the staircase where LS_l averages over it; 0 where
    there is no smaller width, below 0 where a smaller one costs more.
    """
    choices = model.network.groups[index].choices
    position = choices.index(int(widths[index]))
    if position == 0:
        return 0.0
    smaller = widths.copy()
    smaller[index] = choices[position - 1]
    now_s, then_s = model.predict(np.stack([widths, smaller])).latency_s
    return float((now_s - then_s) / now_s)
