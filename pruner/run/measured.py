"""Measuring where the device is at hand: asks `latprof compare`, in a process of its own.

The pruner never touches a device; the profiler knows how to time one and refuses another.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from pruner import RunError

LATPROF = (sys.executable, "-m", "latprof")
DEVICE_NOT_HERE, TOO_BUSY = 3, 6  # its exit codes


@dataclass(frozen=True, slots=True)
class NotTimed:
    """Why there is no measurement, in words for the report."""

    reason: str


def measure_pair(dense: Path, pruned: Path, table: Path) -> dict | NotTimed:
    """Time two ONNX files alternately on the table's device.

    Returns `latency_ms`, `dense_ms`, `speedup`, `speedup_low`, `speedup_high`, and where it was
    made in a slow phase, `slow_phase` and the speedups then to be expected of a quiet machine,
    `expected_low` and `expected_high`; NotTimed where this machine is not that device, or is too
    busy to be measured on. Raises RunError if the profiler fails otherwise.
    """
    command = [*LATPROF, "compare", str(dense), str(pruned)]
    command += ["--table", str(table), "--json"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode in (DEVICE_NOT_HERE, TOO_BUSY):
        return NotTimed(answer.stderr.strip())
    if answer.returncode != 0:
        raise RunError(f"`{' '.join(command[1:])}` failed: {answer.stderr.strip()[-500:]}")
    return json.loads(answer.stdout)
