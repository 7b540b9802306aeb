"""The parts of an agent's search: what `amc` names, and `rl` lets one choose."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lookup_tables.registry import OwnSettings
from pruner.search.methods.rewards import REWARD_HELP, RewardName


class AgentSettings(OwnSettings):
    """The parts of an agent's search."""

    reward: RewardName = Field("error_sensitivity", description=REWARD_HELP)
    agent: Literal["ddpg", "td3", "sac", "cma"] = Field(
        "ddpg", description="The agent's learning algorithm."
    )
    actions: Literal["widths", "values"] = Field(
        "widths", description="What each action sets: how much to keep, or how much that is worth."
    )
    sensitivity: bool = Field(
        True, description="Whether the agent knows each layer's latency sensitivity."
    )
