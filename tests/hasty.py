"""Profiles and comparisons in haste, on however busy a machine.

`python -m tests.hasty profile …` is `latprof profile …` like that.
"""

import sys
from pathlib import Path

import pytest

from latprof.__main__ import main
from latprof.profile.bench import FEWEST

HASTY = [sys.executable, "-m", "tests.hasty"]  # from the root of the checkout
_ROOT = str(Path(__file__).parents[1])
_SCRIPT = f"import sys; sys.path.insert(0, {_ROOT!r}); from tests.hasty import run; run()"
ANYWHERE = (sys.executable, "-c", _SCRIPT)  # the same from any folder


def in_haste(patch) -> None:
    """Profiles of few, short rounds, tried again at once, and comparisons of two sessions that
    always count: rows and ratios are wanted, not good ones."""
    patch.setattr("latprof.profile.journey.TARGET_S", 0.005)
    patch.setattr("latprof.profile.bench.BETTER", FEWEST)
    patch.setattr("latprof.profile.bench.WAIT_S", (0.02,) * 50)
    patch.setattr("latprof.profile.rounds.AT_ONCE_S", 2e-3)
    patch.setattr("latprof.profile.rounds.FOR_A_CORE", 1)
    for name, value in (
        ("REPEATS", 2), ("MOST_REPEATS", 3), ("FEWEST_SESSIONS", 1), ("FEWEST_ROUNDS", 1),
        ("CERTAIN", 1e9), ("MOST_UNCERTAIN", 1e9), ("HOPELESS", 99),
    ):  # fmt: skip
        patch.setattr(f"latprof.profile.compare.{name}", value)


def run() -> None:
    """The command, in haste."""
    in_haste(pytest.MonkeyPatch())
    main()


if __name__ == "__main__":
    run()
