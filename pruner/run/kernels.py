"""The kernels that run sparse layers, asked of `latprof kernels` in processes of their own.

The pruner never imports the profiler. Writing a file for the kernels needs no compiler; running it
does, once on a machine.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from pruner import RunError
from pruner.run.folder import RunFolder


def convert(plain: Path, out: Path, block: int) -> None:
    """Write a network of plain ONNX as one that uses the kernels; raises RunError."""
    command = ["convert", str(plain), "--out", str(out), "--block", str(block)]
    answer = _latprof(command)
    if answer.returncode != 0:
        raise RunError(f"`latprof kernels {' '.join(command)}` failed: {answer.stderr.strip()}")


def library() -> Path | None:
    """The kernels' library for this machine, built if need be; None where it cannot be."""
    answer = _latprof(["build"])
    return Path(answer.stdout.strip()) if answer.returncode == 0 else None


def judged_file(run: RunFolder, built: Path | None) -> Path:
    """A run's exported network as this machine can run it, with the kernels that are `built`.

    Where they are not, the same network with its zeros in place stands for it.
    """
    return run.zeros_onnx if run.zeros_onnx.exists() and built is None else run.onnx


def _latprof(words: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "latprof", "kernels", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)
