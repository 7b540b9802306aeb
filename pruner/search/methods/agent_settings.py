"""The parts of an agent's search: what `lap` and `amc` name, and `rl` lets one choose."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lookup_tables.own_settings import OwnSettings


class AgentSettings(OwnSettings):
    """The parts of an agent's search."""

    reward: Literal[
        "error", "error_log_latency", "error_log_macs", "error_sensitivity", "accuracy_latency"
    ] = Field("error_sensitivity", description="What the agent is rewarded for.")
    agent: Literal["ddpg", "td3", "sac", "cma"] = Field("ddpg", description="The agent.")
    actions: Literal["widths", "values"] = Field(
        "widths", description="What its actions say of a decision: what to keep, or its worth."
    )
    sensitivity: bool = Field(
        True, description="Whether the agent knows each layer's latency sensitivity."
    )
