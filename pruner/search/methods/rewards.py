"""Rewards: what the agent is told about one finished architecture.

LAP combines accuracy error and latency sensitivity; its formula could not be found, so several
are offered. All are given once, at the episode's end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class EpisodeResult:
    """One finished architecture as the agent's feedback sees it."""

    accuracy: float
    latency_s: float
    budget_s: float
    kept: np.ndarray  # (decisions,) share of each group's channels that stays; of a block 0 or 1
    sensitivity: np.ndarray  # (decisions,) LS_l
    macs: float


Reward = Callable[[EpisodeResult], float]
SENSITIVITY_WEIGHT = 0.02  # λ: breaks ties among equally accurate networks, no more
LATENCY_EXPONENT = -0.07  # MnasNet, arXiv 1807.11626, equation 2


def error(result: EpisodeResult) -> float:
    """−error (AMC, arXiv 1802.03494, section 3.3: the budget is met by construction)."""
    return result.accuracy - 1.0


def error_log_latency(result: EpisodeResult) -> float:
    """−error · log(T), T in microseconds (AMC, equation 4, with seconds in place of FLOPs)."""
    return (result.accuracy - 1.0) * float(np.log(result.latency_s * 1e6))


def error_log_macs(result: EpisodeResult) -> float:
    """−error · log(MACs) (AMC, equation 4, as it is): what seconds in its place are worth."""
    return (result.accuracy - 1.0) * float(np.log(result.macs))


def error_sensitivity(result: EpisodeResult) -> float:
    """−error − λ · Σ LS_l · kept_l / Σ LS_l: sensitive groups that stay wide must pay their way."""
    weights = result.sensitivity / max(result.sensitivity.sum(), 1e-12)
    return result.accuracy - 1.0 - SENSITIVITY_WEIGHT * float(weights @ result.kept)


def accuracy_latency(result: EpisodeResult) -> float:
    """accuracy · (T / budget)^w."""
    return result.accuracy * (result.latency_s / result.budget_s) ** LATENCY_EXPONENT


REWARDS: dict[str, Reward] = {
    "error": error,
    "error_log_latency": error_log_latency,
    "error_log_macs": error_log_macs,
    "error_sensitivity": error_sensitivity,
    "accuracy_latency": accuracy_latency,
}
