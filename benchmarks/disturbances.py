"""What else a machine may do: busy loops, a CPU quota, stopping and continuing a process.

Every disturbance is a context manager around a command's options; what it started ends with it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

LOWER = 10  # nice levels
QUOTA_CORES, PERIOD_US = 0.5, 100_000
STOPPED_S, RUNNING_S = 0.05, 0.15
_CGROUPS = Path("/sys/fs/cgroup/cpu")  # version 1; a machine with version 2 needs a file less
_LOOP = "while True: pass"


@dataclass(frozen=True)
class Disturbance:
    """`pinned`: the command and the loops share core 0; with two threads only the loops do."""

    name: str
    loops: int = 0
    loops_niced: bool = False
    command_niced: bool = False
    pinned: bool = False
    quota: bool = False
    stopped: bool = False

    def run(
        self, command: list[str], cwd: Path, threads: int, limit_s: float | None = None
    ) -> subprocess.CompletedProcess:
        """The command beside the disturbance; `threads`: how many it will use.

        Raises subprocess.TimeoutExpired after `limit_s`; the command has been ended by then.
        """
        with busy_loops(self):
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env=os.environ | {"PYTHONPATH": str(cwd)},
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                preexec_fn=lambda: self._enter(threads),
            )
            with stopping(process) if self.stopped else nullcontext():
                try:
                    out, err = process.communicate(timeout=limit_s)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.communicate()
                    raise
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def _enter(self, threads: int) -> None:
        """In the new process, before the command starts."""
        if self.pinned and threads == 1:
            os.sched_setaffinity(0, {0})
        if self.command_niced:
            os.nice(LOWER)
        if self.quota:
            enter_quota()


def all_disturbances(most_loops: int = 3) -> list[Disturbance]:
    """Idle, every number of loops at every priority, free and pinned, a quota, and stops."""
    found = [Disturbance("idle")]
    for loops in range(1, most_loops + 1):
        for where in ("free", "pinned"):
            for who in ("same priority", "loops lower", "command lower"):
                found.append(
                    Disturbance(
                        f"{loops} busy, {where}, {who}",
                        loops=loops,
                        loops_niced=who == "loops lower",
                        command_niced=who == "command lower",
                        pinned=where == "pinned",
                    )
                )
    return [*found, Disturbance("quota", quota=True), Disturbance("stopped", stopped=True)]


@contextmanager
def busy_loops(disturbance: Disturbance) -> Iterator[None]:
    def enter() -> None:
        if disturbance.pinned:
            os.sched_setaffinity(0, {0})
        if disturbance.loops_niced:
            os.nice(LOWER)

    loops = [
        subprocess.Popen([sys.executable, "-c", _LOOP], preexec_fn=enter)
        for _ in range(disturbance.loops)
    ]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def enter_quota() -> None:
    """This process and its children may use half a core from now on; needs root and cgroups v1."""
    group = _CGROUPS / "latprof_null_test"
    group.mkdir(exist_ok=True)
    (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
    (group / "cpu.cfs_quota_us").write_text(str(round(QUOTA_CORES * PERIOD_US)))
    (group / "cgroup.procs").write_text(str(os.getpid()))


def quota_possible() -> bool:
    return (os.access(_CGROUPS, os.W_OK) and (_CGROUPS / "cpu.cfs_quota_us").exists()) or (
        os.geteuid() == 0 and _CGROUPS.is_dir()
    )


@contextmanager
def stopping(process: subprocess.Popen) -> Iterator[None]:
    """Stop and continue a process again and again."""
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(RUNNING_S) and process.poll() is None:
            process.send_signal(signal.SIGSTOP)
            ended.wait(STOPPED_S)
            process.send_signal(signal.SIGCONT)

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
