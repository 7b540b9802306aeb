"""Ways in which a table on disk comes to harm; used by the tests and by `benchmarks.corruption`."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path


def damage(folder: Path, kind: str, rng: random.Random) -> str:
    """Harm one file of a table in that way; returns its name. The manifest is never missing."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    if kind == MISSING:
        path = rng.choice([path for path in files if path.name != "manifest.json"])
        path.unlink()
        return path.name
    if kind in _ROWS_ONLY:
        files = [path for path in files if path.suffix == ".jsonl"]
    path = rng.choice(files)
    path.write_bytes(KINDS[kind](path.read_bytes(), rng))
    return path.name


def _bit_flip(data: bytes, rng: random.Random) -> bytes:
    position = rng.randrange(len(data))
    flipped = data[position] ^ (1 << rng.randrange(8))
    return data[:position] + bytes([flipped]) + data[position + 1 :]


def _truncation(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def _lost_lines(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    return b"".join(lines[: rng.randrange(len(lines))])


def _swapped_lines(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    if len(lines) < 2:
        return data
    a, b = rng.sample(range(len(lines)), 2)
    lines[a], lines[b] = lines[b], lines[a]
    return b"".join(lines)


def _wrong_units(data: bytes, rng: random.Random) -> bytes:
    """One time in milliseconds or nanoseconds."""

    def convert(row: dict) -> None:
        names = [name for name, value in row.items() if name.endswith("_s") and value]
        if names:
            row[rng.choice(names)] *= rng.choice([1e3, 1e9])

    return _in_a_row(data, rng, convert)


def _renamed_field(data: bytes, rng: random.Random) -> bytes:
    def rename(row: dict) -> None:
        name = rng.choice(sorted(row))
        row[rng.choice(["seconds", name.upper(), name + "_ms"])] = row.pop(name)

    return _in_a_row(data, rng, rename)


def _in_a_row(data: bytes, rng: random.Random, change: Callable[[dict], None]) -> bytes:
    lines = data.splitlines(keepends=True)
    number = rng.randrange(len(lines))
    row = json.loads(lines[number])
    change(row)
    lines[number] = json.dumps(row, separators=(",", ":")).encode() + b"\n"
    return b"".join(lines)


KINDS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "bit flip": _bit_flip,
    "truncation": _truncation,
    "lost lines": _lost_lines,
    "swapped lines": _swapped_lines,
    "wrong units": _wrong_units,
    "renamed field": _renamed_field,
}
MISSING = "missing file"
WAYS = (*KINDS, MISSING)
_ROWS_ONLY = {"wrong units", "renamed field"}
