"""Files that are whole or not there, and that tell their format before anything else."""

from __future__ import annotations

import json
import os
from pathlib import Path

from lookup_tables.errors import ContractError


def write_whole(path: str | Path, content: str | bytes) -> None:
    """Write a file so that a killed writer leaves the former one, or none."""
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(partial, path)


def refuse_newer(
    path: str | Path, text: str | bytes, known: int, error: type[ContractError]
) -> None:
    """Raise `error` if a JSON object says a newer `format`.

    Asked before anything else is checked: another format may hold fields unknown here. What is no
    JSON object passes; its reader says so.
    """
    try:
        found = json.loads(text).get("format", known)
    except (ValueError, AttributeError):
        return
    if isinstance(found, int) and found > known:
        raise error(
            f"{path}: format {found} is newer than the {known} this version reads; "
            "upgrade latprof-pruner"
        )
