"""What else the machine does: for how long a run's threads waited, and who kept them waiting."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from latprof.machine.pace import in_words
from lookup_tables.noise import Timing

_PROC, _CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")
BUSY, STOLEN = 0.05, 0.02  # of a core: less is not worth naming
_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_LAST = threading.local()  # when this thread's last timed run ended, by both clocks


class Waits:
    """How long this process's threads were ready to run and did not.

    One thread waits for as long as its wall-clock time exceeds its processor time: preemption,
    quotas, stops and the hypervisor's share all end there. Of further threads, which may sleep of
    their own will, the system's scheduler says how long they stood in its queue (Linux). Most
    interruptions fall between two runs, where the thread calls the system: those are told too.
    """

    def __init__(self, threads: int) -> None:
        self._queues = _queues() if threads > 1 else []

    def timed(self, run: Callable[..., object], *arguments) -> Timing:
        """Call `run` once; what it took, for how much of that it waited, and what went before."""
        queued_s = self._queued_s()
        start_s, worked_s = time.perf_counter(), time.thread_time()
        run(*arguments)
        end_s, worked_until_s = time.perf_counter(), time.thread_time()
        took_s = end_s - start_s
        own_s = took_s - (worked_until_s - worked_s)
        waited_s = max(0.0, own_s, self._queued_s() - queued_s)
        away_s = 0.0
        if (last := getattr(_LAST, "ended", None)) is not None:
            away_s = max(0.0, (start_s - last[0]) - (worked_s - last[1]))
        _LAST.ended = end_s, worked_until_s
        return Timing(took_s, waited_s, away_s)

    def _queued_s(self) -> float:
        return sum(_queued_s(queue) for queue in self._queues)

    def __del__(self) -> None:
        for queue in getattr(self, "_queues", []):
            os.close(queue)


def _queues() -> list[int]:
    """An open file for each other thread of this process, where the system has them."""
    tasks, own = _PROC / "self" / "task", str(threading.get_native_id())
    if not tasks.is_dir():
        return []
    found = []
    for task in tasks.iterdir():
        path = task / "schedstat"
        if task.name != own and path.exists():
            found.append(os.open(path, os.O_RDONLY))
    return found


def _queued_s(queue: int) -> float:
    try:
        return int(os.pread(queue, 100, 0).split()[1]) / 1e9
    except (OSError, IndexError):  # the thread has ended
        return 0.0


@dataclass(frozen=True)
class Snapshot:
    """The system's counters at one moment; what it does not tell is missing."""

    at_s: float
    cores: dict[int, tuple[float, float]] = field(default_factory=dict)  # busy, stolen seconds
    processes: dict[int, tuple[str, float, int]] = field(default_factory=dict)  # name, s, core
    throttled_s: float = 0.0

    @classmethod
    def take(cls) -> Snapshot:
        return cls(time.perf_counter(), _cores(), _processes(), _throttled_s())


def disturbances(before: Snapshot, after: Snapshot) -> list[str]:
    """What took processors away between two moments, in a user's words, the worst first."""
    passed_s = max(after.at_s - before.at_s, 1e-9)
    allowed = _allowed(after.cores)
    found: list[tuple[float, str]] = []
    quota = quota_cores()
    throttled_s = after.throttled_s - before.throttled_s
    if quota is not None and throttled_s > 0:
        share = min(1.0, throttled_s / passed_s)
        text = f"a CPU quota of {quota:.3g} cores stopped it for {share:.0%} of the time"
        found.append((math.inf, text))  # the one that will not end by waiting
    for pid, (name, spent_s, core) in after.processes.items():
        share = (spent_s - before.processes.get(pid, (name, 0.0, core))[1]) / passed_s
        if pid == os.getpid() or share < BUSY or core not in allowed:
            continue
        found.append((share, f"another process ({name}, {pid}) uses {share:.0%} of core {core}"))
    for core in allowed:
        stolen = (after.cores[core][1] - before.cores.get(core, (0.0, 0.0))[1]) / passed_s
        if stolen > STOLEN:
            found.append((stolen, f"the hypervisor took {stolen:.0%} of core {core}'s time"))
    return [text for _, text in sorted(found, reverse=True)]


def _allowed(cores: dict[int, tuple[float, float]]) -> list[int]:
    mine = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(cores)
    return [core for core in sorted(cores) if core in mine]


def _cores() -> dict[int, tuple[float, float]]:
    if not (_PROC / "stat").exists():
        return {}
    found = {}
    for line in (_PROC / "stat").read_text().splitlines():
        name, *counts = line.split()
        if name.startswith("cpu") and name != "cpu":
            user, nice, system, _idle, _wait, irq, soft, steal = map(int, counts[:8])
            busy_s = (user + nice + system + irq + soft) / _TICKS
            found[int(name[3:])] = (busy_s, steal / _TICKS)
    return found


def _processes() -> dict[int, tuple[str, float, int]]:
    found = {}
    for folder in _PROC.iterdir() if _PROC.is_dir() else ():
        if not folder.name.isdigit():
            continue
        try:
            text = (folder / "stat").read_text()
        except OSError:  # it has ended
            continue
        head, _, tail = text.rpartition(")")  # its name may hold spaces and brackets
        facts = tail.split()
        spent_s = (int(facts[11]) + int(facts[12])) / _TICKS
        found[int(folder.name)] = (head.partition("(")[2], spent_s, int(facts[36]))
    return found


def quota_cores() -> float | None:
    """The CPU quota that this process runs under, in cores; None if there is none."""
    for folder in _groups():
        try:
            if (folder / "cpu.max").exists():
                quota, period = (folder / "cpu.max").read_text().split()
            else:
                quota = (folder / "cpu.cfs_quota_us").read_text().strip()
                period = (folder / "cpu.cfs_period_us").read_text().strip()
        except (OSError, ValueError):
            continue
        if quota.isdigit():
            return int(quota) / int(period)
    return None


def _throttled_s() -> float:
    for folder in _groups():
        try:
            text = (folder / "cpu.stat").read_text()
        except OSError:
            continue
        facts = dict(line.split()[:2] for line in text.splitlines() if line)
        if "throttled_usec" in facts:  # control groups, version 2
            return int(facts["throttled_usec"]) / 1e6
        if "throttled_time" in facts:  # version 1
            return int(facts["throttled_time"]) / 1e9
    return 0.0


def _groups() -> list[Path]:
    """The control groups of this process that may limit its processors, the innermost first."""
    listing = _PROC / "self" / "cgroup"
    if not listing.exists():
        return []
    found = []
    for line in listing.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        root = _CGROUPS if not controllers else _CGROUPS / "cpu"
        if controllers and "cpu" not in controllers.split(","):
            continue
        here = root / path.strip("/")
        found += [here, *(p for p in here.parents if p == root or root in p.parents)]
    return [folder for folder in found if folder.is_dir()]


def what_disturbs(before: Snapshot, shared: Sequence[float] = ()) -> str:
    """What took processors away since `before`, in one line.

    `shared`: how many times slower the core was where something else shared it.
    """
    found = disturbances(before, Snapshot.take())
    if len(shared):
        found.append(in_words(float(np.median(shared))))
    return "; ".join(found[:4]) or (
        "something that the system does not report kept the runs off their cores (was this "
        "process stopped?)"
    )
