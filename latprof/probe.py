"""How fast this machine is just now, by small works of its own: clocks, memory, caches.

A neighbour on a shared processor takes no processor time from us; it lowers the clock, shares the
core, fills the common cache and uses the memory's bandwidth. No counter that a user may read tells
it, and the network that is measured cannot tell it from its own ways. Three works that never
change can: arithmetic within the first-level cache, streaming through memory, and reading it at
random. What they take on the quiet machine is remembered from call to call, so that a slow phase
which outlasts a call is seen all the same.

A probe empties the caches: it belongs between sessions, never between the runs of one.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from lookup_tables.device import Device
from lookup_tables.files import write_whole
from lookup_tables.noise import is_slow_phase

WORKS = ("clock", "memory", "latency")
WORDS = {
    "clock": "arithmetic takes {:.0%} longer than on the quiet machine (a lower clock, or a "
    "neighbour on the same core)",
    "memory": "streaming through memory takes {:.0%} longer than on the quiet machine",
    "latency": "reading memory at random takes {:.0%} longer than on the quiet machine",
}
_MEMORY_BYTES, _READS, _REPEATS = 1 << 26, 20_000, 4
_REMEMBERED = 60  # calls
_QUIET = 10  # percentile of all probes that stands for the quiet machine


class Speed:
    """Probes of one call, held against those of earlier calls on this device.

    Does nothing on GPUs, whose own monitor tells their clocks.
    """

    def __init__(self, device: Device) -> None:
        self._path = _memory_of(device) if device.kind == "cpu" else None
        self._earlier = _read(self._path) if self._path else []
        self._now: list[np.ndarray] = []

    def probe(self) -> None:
        """Some 10 ms of work."""
        if self._path:
            self._now.append(np.array([_least_s(work) for work in _works()]))

    def slowness(self) -> list[np.ndarray]:
        """Between each two probes, how many times longer each work took than when quiet: (3,).

        The faster of the two counts: a phase that covers what was between them slows both.
        """
        if len(self._now) < 2:
            return []
        quiet = np.percentile([*self._earlier, *self._now], _QUIET, axis=0)
        return [np.minimum(a, b) / quiet for a, b in zip(self._now, self._now[1:], strict=False)]

    def remember(self) -> None:
        """Keep this call's fastest works for later calls; never fails for want of a place."""
        if not self._now:
            return
        rows = [*self._earlier, np.min(self._now, axis=0)][-_REMEMBERED:]
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._path, json.dumps([row.tolist() for row in rows]) + "\n")
        except OSError:  # a home that may not be written
            return


def in_words(slowness: Sequence[float]) -> str:
    """What was slow, in one line; empty if nothing was."""
    return "; ".join(
        WORDS[work].format(times - 1)
        for work, times, slow in zip(WORKS, slowness, is_slow_phase(slowness), strict=True)
        if slow
    )


@cache
def _works() -> tuple[Callable[[], object], ...]:
    rng = np.random.default_rng(0)
    vector, result = rng.random(2048), np.empty(2048)  # 32 KB: within the first-level cache
    memory = np.ones(_MEMORY_BYTES // 8)
    values = np.empty(_READS)

    def arithmetic() -> None:
        for _ in range(20):
            np.multiply(vector, vector, out=result)
            np.sqrt(result, out=result)
            np.divide(result, vector, out=result)

    def at_random() -> None:  # elsewhere every time: hardly any of it is in a cache yet
        places = rng.integers(0, len(memory), _READS)
        memory.take(places, out=values, mode="clip")

    return arithmetic, memory.sum, at_random


def _least_s(work: Callable[[], object]) -> float:
    """Processor seconds: what the work waited for a processor is not in them."""
    least_s = np.inf
    for _ in range(_REPEATS):
        start_s = time.thread_time()
        work()
        least_s = min(least_s, time.thread_time() - start_s)
    return least_s


def _memory_of(device: Device) -> Path:
    """Where this machine's probes are kept: in the user's cache, one file for each device."""
    cache_home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    facts = device.model_dump_json(include={"processor", "processor_detail", "threads"})
    key = hashlib.sha256(f"{platform.node()} {facts}".encode()).hexdigest()[:12]
    return Path(cache_home) / "latprof" / f"speed_{key}.json"


def _read(path: Path) -> list[np.ndarray]:
    """The probes of earlier calls; none where the file is missing or of something else."""
    try:
        rows = np.array(json.loads(path.read_text()), dtype=float)
    except (OSError, TypeError, ValueError):
        return []
    sound = rows.ndim == 2 and rows.shape[1] == len(WORKS) and bool((rows > 0).all())
    return [*rows] if sound else []
