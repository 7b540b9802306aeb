"""What every search method is given beside its problem."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """`episodes`: how many architectures may be scored; `reward`: a name from REWARDS; `depth`:
    whether removable blocks may go too; `agent`, `actions`: names from AGENTS and
    ENVIRONMENTS, for the methods that have an agent; `sensitivity`: whether it knows latency
    sensitivity, in its state, prior and reward. The agent "thompson" values what accuracy alone
    says and takes seconds from the table: it has no use for `reward`, `actions`, `sensitivity`."""

    episodes: int = 300
    seed: int = 0
    reward: str = "error_sensitivity"
    depth: bool = False
    agent: str = "thompson"
    actions: str = "widths"
    sensitivity: bool = True
