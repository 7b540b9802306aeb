"""What every search method is given beside its problem."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """`episodes`: how many architectures may be scored; `depth`: whether removable blocks may go
    too. Only the method `rl` listens to the others: `agent`, `actions` and `reward` are names from
    AGENTS, ENVIRONMENTS and REWARDS, `sensitivity` is whether the agent knows latency sensitivity,
    in its state, its exploration and its reward."""

    episodes: int = 300
    seed: int = 0
    depth: bool = False
    agent: str = "ddpg"
    actions: str = "widths"
    reward: str = "error_sensitivity"
    sensitivity: bool = True
