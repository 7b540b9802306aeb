"""Latency sensitivity: how many seconds a decision really buys, from the table alone.

LAP (Neural Networks 152, 2022) uses latency sensitivity as prior knowledge; its formula could not
be found. Ours: dT_l(w) = latency with group l at width w, the others full, taken from the dense
latency T, and LS_l = mean over the menu of dT_l(w) / ((1 − w / W_l) · T), divided by the largest. A
removable block is a group of one channel, kept or not.
"""

from __future__ import annotations

import numpy as np

from pruner.search.completion import Completion


def latency_sensitivity(completion: Completion) -> np.ndarray:
    """LS_l of every decision, (choices,), in [0, 1]; 1 is where a share of channels costs most."""
    full = [len(decision.options) - 1 for decision in completion.decisions]
    (dense_s,) = completion.latency_s([full])
    means = []
    for index, decision in enumerate(completion.decisions):
        smaller = range(full[index])
        if not smaller:
            means.append(0.0)
            continue
        rows = [[*full[:index], position, *full[index + 1 :]] for position in smaller]
        saved = (dense_s - completion.latency_s(rows)) / dense_s
        shares = np.array([decision.options[position] for position in smaller]) / decision.full
        means.append(float(np.mean(saved / (1 - shares))))
    sensitivity = np.maximum(means, 0.0)
    return sensitivity / max(sensitivity.max(), 1e-12)


def local_slope(completion: Completion, positions: list[int], index: int) -> float:
    """Share of the present latency that the next smaller option of one decision saves.

    It sees the staircase where LS_l averages over it; 0 where there is no smaller option, below 0
    where a smaller one costs more (an agent's state, in [0, 1], shows 0 there).
    """
    if positions[index] == 0:
        return 0.0
    smaller = [*positions[:index], positions[index] - 1, *positions[index + 1 :]]
    now_s, then_s = completion.latency_s([positions, smaller])
    return float((now_s - then_s) / now_s)
