"""Profiles in haste; `python -m tests.hasty profile …` is `latprof profile …` like that."""

import sys

import pytest

from latprof.__main__ import main
from latprof.profile.bench import FEWEST

HASTY = [sys.executable, "-m", "tests.hasty"]  # from the root of the checkout


def in_haste(patch) -> None:
    """Profiles of few, short rounds, tried again at once: rows are wanted, not good ones."""
    patch.setattr("latprof.profile.journey.TARGET_S", 0.005)
    patch.setattr("latprof.profile.bench.BETTER", FEWEST)
    patch.setattr("latprof.profile.bench.WAIT_S", (0.02,) * 50)
    patch.setattr("latprof.profile.rounds.AT_ONCE_S", 2e-3)
    patch.setattr("latprof.profile.rounds.FOR_A_CORE", 1)


if __name__ == "__main__":
    in_haste(pytest.MonkeyPatch())
    main()
