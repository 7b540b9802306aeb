"""Can this machine be measured on now? What else it does, how it is set, and what to change."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from latprof.machine.cores import Cores
from latprof.machine.load import Snapshot, disturbances, quota_cores
from latprof.machine.pace import Pace, in_words
from latprof.runtimes.base import Usage
from latprof.runtimes.here import this_device
from lookup_tables.noise import SLOW_CORE

WATCHED_S = 2.0
PACES, PACE_S, SHARED = 60, 0.01, 0.1  # on each core; a share of these is worth telling
_CPU, _PROC = Path("/sys/devices/system/cpu"), Path("/proc")

State = Literal["good", "doubtful", "busy", "unknown"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that decides how well this machine can be measured on.

    `busy`: measuring will be refused or wait while it lasts. `doubtful`: times will scatter more.
    `unknown`: this system does not tell.
    """

    what: str
    state: State
    found: str
    advice: str = ""


def examine(watched_s: float = WATCHED_S) -> list[Finding]:
    """Watch the machine for a moment, and read how it is set."""
    before = Snapshot.take()
    time.sleep(watched_s)
    after = Snapshot.take()
    return [
        _load(before, after),
        _shared_core(),
        _quota(),
        _stolen(after),
        _sessions(),
        _governor(),
        _turbo(),
        _sibling_threads(),
        _idle_states(),
    ]


def _load(before: Snapshot, after: Snapshot) -> Finding:
    if not after.cores:
        return Finding("load", "unknown", "this system does not report what its cores do")
    found = disturbances(before, after)
    if not found:
        return Finding("load", "good", "nothing else uses this process's cores")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else len(after.cores)
    advice = "end it, or wait for a quiet hour"
    if cores > len(found):
        advice += ", or bind both apart: a core is still free (taskset -c)"
    return Finding("load", "busy" if len(found) >= cores else "doubtful", "; ".join(found), advice)


def _shared_core() -> Finding:
    """Whether something takes a part of a core without taking its time; each core in its turn."""
    device = this_device("cpu", Usage())
    pace, shares, worst = Pace(device), [], []
    with Cores(device) as cores:
        for _ in range(len(cores)):
            found = []
            for _ in range(PACES):
                found.append(pace.now())
                time.sleep(PACE_S)
            slow = [each for each in found if each > SLOW_CORE]
            shares.append(len(slow) / PACES)
            worst += slow
            cores.move()
    pace.remember()
    if max(shares) < SHARED:
        return Finding("shared core", "good", "arithmetic is as fast as on an unshared core")
    told = f"{in_words(float(np.median(worst)))}, {max(shares):.0%} of the time"
    advice = "rounds on a shared core do not count; measuring is faster on a dedicated machine"
    return Finding("shared core", "doubtful", told, advice)


def _quota() -> Finding:
    quota = quota_cores()
    if quota is None:
        return Finding("CPU quota", "good", "none")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    return Finding(
        "CPU quota",
        "doubtful" if quota >= cores else "busy",
        f"{quota:.3g} cores",
        "measure outside this container, or give it whole cores (a cpuset) instead of a quota; "
        "runs longer than the quota's period are refused",
    )


def _stolen(now: Snapshot) -> Finding:
    """Since the machine was started: a hypervisor takes in bursts."""
    if not now.cores:
        return Finding("stolen time", "unknown", "this system does not tell")
    busy_s, stolen_s = (sum(each) for each in zip(*now.cores.values(), strict=True))
    share = stolen_s / max(busy_s + stolen_s, 1e-9)
    state: State = "good" if share < 0.01 else "doubtful"
    return Finding(
        "stolen time",
        state,
        f"the hypervisor took {share:.1%} of the CPU time this machine asked for since it started",
        "" if state == "good" else "a machine with dedicated cores would repeat better",
    )


def _sessions() -> Finding:
    """Other profilers here: two of them disturb each other."""
    if not _PROC.is_dir():
        return Finding("other measurements", "unknown", "this system does not tell")
    others = []
    for folder in _PROC.iterdir():
        if folder.name.isdigit() and int(folder.name) not in (os.getpid(), os.getppid()):
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
            except OSError:  # it has ended
                continue
            if any(Path(word.decode(errors="replace")).name == "latprof" for word in words):
                others.append(folder.name)
    if not others:
        return Finding("other measurements", "good", "none")
    return Finding("other measurements", "busy", f"latprof runs as {', '.join(others)}", "wait")


def _governor() -> Finding:
    found = {p.read_text().strip() for p in _CPU.glob("cpu[0-9]*/cpufreq/scaling_governor")}
    if not found:
        return Finding("frequency governor", "unknown", "this system does not tell")
    state: State = "good" if found == {"performance"} else "doubtful"
    advice = "" if state == "good" else "cpupower frequency-set --governor performance"
    return Finding("frequency governor", state, ", ".join(sorted(found)), advice)


def _turbo() -> Finding:
    for path, on in (("intel_pstate/no_turbo", "0"), ("cpufreq/boost", "1")):
        if (_CPU / path).exists():
            if (_CPU / path).read_text().strip() != on:
                return Finding("turbo", "good", "off")
            return Finding("turbo", "doubtful", "on", f"echo {1 - int(on)} > {_CPU / path}")
    return Finding("turbo", "unknown", "this system does not tell")


def _sibling_threads() -> Finding:
    path = _CPU / "smt/active"
    if not path.exists():
        return Finding("hardware threads", "unknown", "this system does not tell")
    if path.read_text().strip() == "0":
        return Finding("hardware threads", "good", "one per core, as far as this system reports")
    return Finding(
        "hardware threads", "doubtful", "two per core", "keep the second thread of each core idle"
    )


def _idle_states() -> Finding:
    names = [path.read_text().strip() for path in sorted(_CPU.glob("cpu0/cpuidle/state*/name"))]
    if not names:
        return Finding("idle states", "unknown", "this system does not tell")
    return Finding("idle states", "good", f"{', '.join(names)}; a measurement keeps its cores busy")
