"""What every search method is given beside its task."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """`episodes`: how many architectures may be scored; `reward`: a name from REWARDS."""

    episodes: int = 300
    seed: int = 0
    reward: str = "error_sensitivity"
