"""The names that settings may choose from."""

from __future__ import annotations

from collections.abc import Collection

from pruner.env import ENVIRONMENTS
from pruner.filters import DYNAMIC, RANKINGS
from pruner.methods import AGENTS, METHODS
from pruner.rewards import REWARDS

KNOWN: dict[str, Collection[str]] = {
    "method": METHODS,
    "ranking": (*RANKINGS, DYNAMIC),
    "reward": REWARDS,
    "agent": AGENTS,
    "actions": ENVIRONMENTS,
}
