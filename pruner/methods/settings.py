"""What every search method is given beside its task."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """`episodes`: how many architectures may be scored; `reward`: a name from REWARDS; `depth`:
    whether removable blocks may go too; `agent`, `actions`: names from AGENTS and
    ENVIRONMENTS, for the methods that have an agent; `sensitivity`: whether it knows latency
    sensitivity, in its state, prior and reward."""

    episodes: int = 300
    seed: int = 0
    reward: str = "error_sensitivity"
    depth: bool = False
    agent: str = "ddpg"
    actions: str = "widths"
    sensitivity: bool = True
