"""Rewards: what the agent is told about one finished architecture.

LAP combines accuracy error and latency sensitivity; its formula could not be found, so several
are offered, and a user's own is `file.py:function`. All are given once, at the episode's end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import numpy as np
from pydantic import AfterValidator

from lookup_tables.architecture import Architecture
from pruner import SearchError
from pruner.models.user_code import guarded_function
from pruner.search.completion import Completion


@dataclass(frozen=True)
class EpisodeResult:
    """One finished architecture as the agent's feedback sees it; its accuracy may be imagined."""

    accuracy: float
    latency_s: float
    budget_s: float
    kept: np.ndarray  # (decisions,) share of each group's channels that stays; of a block 0 or 1
    sensitivity: np.ndarray  # (decisions,) LS_l
    completion: Completion
    positions: Sequence[int]  # of every decision the option taken

    @cached_property
    def architecture(self) -> Architecture:
        return self.completion.architecture(self.positions)

    @cached_property
    def macs(self) -> float:
        """Multiply-accumulates of what is left."""
        return float(self.completion.model.network.macs_of(self.architecture))


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


def reward_by(name: str) -> Reward:
    """The reward of that name, or a user's own `file.py:function`.

    Raises SearchError for a name that is neither, and where a user's own gives no number.
    """
    if name in REWARDS:
        return REWARDS[name]
    of_user = guarded_function(name, "--reward", SearchError, "with an EpisodeResult")

    def given(result: EpisodeResult) -> float:
        told = of_user(result)
        found = np.asarray(told)
        if found.shape or found.dtype.kind not in "fiub" or not np.isfinite(found):
            raise SearchError(f"{name} returned {told!r}; --reward expects one finite number")
        return float(found)

    return given


def _known(name: str) -> str:
    if name not in REWARDS and ":" not in name:
        raise ValueError(f"choose one of {', '.join(REWARDS)}, or your own: file.py:function")
    return name


RewardName = Annotated[str, AfterValidator(_known)]
REWARD_HELP = (
    f"How the agent's reward is computed: {', '.join(REWARDS)}, or file.py:function, which is "
    "given an EpisodeResult and returns a number."
)
