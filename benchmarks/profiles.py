"""Tables made and judged by the commands, each in a process of its own, as a user makes them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.disturbances import Disturbance

HERE = Path(__file__).parents[1]
IDLE = Disturbance("idle")


def made(
    network: str,
    out: Path,
    tree: Path = HERE,
    beside: Disturbance = IDLE,
    options: Sequence[str] = (),
) -> dict:
    """`latprof profile` into a folder of its own; the table's error as it publishes it."""
    command = ["profile", "--network", network, "--out", str(out.resolve()), *options]
    found = _answer(command, tree, beside)
    return {"network": network, "beside": beside.name} | found


def judged(network: str, table: Path, samples: int = 60, seed: int = 1) -> dict:
    """`latprof validate` by a fresh process: the error on networks that the table never saw."""
    command = ["validate", "--network", network, "--table", str(table.resolve())]
    return _answer([*command, "--samples", str(samples), "--seed", str(seed)], HERE, IDLE)


def _answer(command: list[str], tree: Path, beside: Disturbance) -> dict:
    start_s = time.perf_counter()
    at = datetime.now(UTC).isoformat(timespec="seconds")
    answer = beside.run([sys.executable, "-m", "latprof", *command, "--json"], tree, threads=1)
    found = {"at": at, "exit_code": answer.returncode, "seconds": time.perf_counter() - start_s}
    warnings = [line for line in answer.stderr.splitlines() if line.startswith("warning: ")]
    if warnings:
        found["warned"] = warnings
    if answer.returncode != 0:
        return found | {"said": (answer.stderr.strip().splitlines() or [""])[-1]}
    menu, any_ = json.loads(answer.stdout)
    return found | {"menu": _errors(menu), "any": _errors(any_)}


def _errors(validation: dict) -> dict:
    names = ("architectures", "dropped", "rmspe", "unselected_rmspe", "dropped_rmspe")
    names += ("bias", "worst", "null_ratio")
    return {name: validation[name] for name in names if name in validation}


def checkout(commit: str, place: Path) -> Path:
    """The code of another commit, beside this one."""
    if not place.exists():
        subprocess.run(
            ["git", "worktree", "add", "--detach", str(place.resolve()), commit],
            cwd=HERE, check=True, env=os.environ, capture_output=True,
        )  # fmt: skip
    return place
