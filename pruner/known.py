"""The names that settings may choose from."""

from __future__ import annotations

from collections.abc import Collection

from pruner.criteria import CRITERIA, DYNAMIC
from pruner.env import ENVIRONMENTS
from pruner.methods import AGENTS, METHODS
from pruner.rewards import REWARDS

KNOWN: dict[str, Collection[str]] = {
    "method": METHODS,
    "criterion": (*CRITERIA, DYNAMIC),
    "reward": REWARDS,
    "agent": AGENTS,
    "actions": ENVIRONMENTS,
}
