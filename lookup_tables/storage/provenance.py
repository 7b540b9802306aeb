"""Which code wrote something: its version, and its commit where it runs from a checkout."""

from __future__ import annotations

import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path


@cache
def written_by() -> str:
    """`0.2.0 1a2b3c4d5e6f`: recorded with every row, never compared."""
    found = commit()
    if found is None:
        return version("latprof-pruner")
    sha, _, dirty = found.partition("-")
    return f"{version('latprof-pruner')} {sha[:12]}{'-dirty' if dirty else ''}"


def commit() -> str | None:
    """The commit of this checkout, `-dirty` if files differ; None where there is no checkout."""
    checkout = Path(__file__).parents[2]

    def git(*command: str) -> str:
        words = ["git", "-C", str(checkout), *command]
        return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()

    try:
        if git("rev-parse", "--show-prefix", "--is-inside-work-tree") != "true":
            return None  # installed, maybe inside of somebody else's checkout
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*") or None
    except FileNotFoundError:  # no git here
        return None
