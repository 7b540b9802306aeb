"""Whether something shares this core just now: how long a fixed bit of arithmetic takes.

On a shared processor a neighbour's work on the other hardware thread of our core takes no processor
time from us and moves no counter that a user may read, but it takes a part of the core. Divisions
tell it at once: the core has one unit for them, so they take 1.6 to 1.9 times as long. Networks
take longer then, pruned ones not as dense ones: ratios move by up to a fifth
(benchmarks/slow_phases.py). The arithmetic touches 4 KB, so it may run between two runs and leaves
the caches as they are; a lower clock shows in it too.

Streaming through memory and reading it at random were tried as well: they follow the dense
network's time, but not the ratio (docs/decisions/disturbances.md).

What it takes on the quiet machine is remembered from call to call, so that a slow phase which
outlasts a call is seen all the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from pathlib import Path

import numpy as np

from lookup_tables.device import Device
from lookup_tables.storage.files import write_whole

_DIVISIONS, _LENGTH, _TRIES = 30, 256, 3  # the first one fetches its code again
_REMEMBERED = 60  # calls
_KEPT = 4096  # times of this call
_QUIET = 5  # percentile of a call's times that stands for the quiet machine
_EARLIER = 25  # percentile of earlier calls': some met no quiet moment, few were on a faster clock
_FEWEST = 20  # times of a call that are worth remembering


class Pace:
    """How many times longer than on the quiet machine the arithmetic takes.

    Always 1 where the work is done elsewhere, as on a GPU, whose own monitor tells its clocks; and
    where LATPROF_ANY_CORE is set: a machine that is never quiet can be measured on so, with the
    errors that this brings.
    """

    def __init__(self, device: Device, on_processor: bool = True) -> None:
        """`on_processor`: whether the device's work runs on the cores of this process."""
        is_told = on_processor and not os.environ.get("LATPROF_ANY_CORE")
        self._path = _memory_of(device) if is_told else None
        self._earlier_s = _read(self._path) if self._path else []
        self._times_s: list[float] = []
        self._quiet_s = np.inf
        if self._earlier_s:
            self._quiet_s = float(np.percentile(self._earlier_s, _EARLIER))
        rng = np.random.default_rng(0)
        self._dividend, self._values = 0.5 + rng.random(_LENGTH), np.ones(_LENGTH)

    def now(self) -> float:
        """1.0 when the core is ours; some 40 µs of work."""
        if self._path is None:
            return 1.0
        took_s = min(self._arithmetic_s() for _ in range(_TRIES))
        self._times_s.append(took_s)
        if len(self._times_s) % _FEWEST == 0:
            self._quiet_s = self._level_s()
        return max(1.0, took_s / self._quiet_s)

    def remember(self) -> None:
        """Keep what the quiet machine took for later calls; never fails for want of a place."""
        if self._path is None or len(self._times_s) < _FEWEST:
            return
        rows = [*self._earlier_s, float(np.percentile(self._times_s, _QUIET))][-_REMEMBERED:]
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._path, json.dumps(rows) + "\n")
        except OSError:  # a home that may not be written
            return

    def _level_s(self) -> float:
        """The quiet machine's, by this call and by earlier ones."""
        del self._times_s[:-_KEPT]
        now_s = float(np.percentile(self._times_s, _QUIET))
        return min([now_s, *np.percentile(self._earlier_s or [now_s], [_EARLIER])])

    def _arithmetic_s(self) -> float:
        """Processor seconds: what it waited for a processor is not in them."""
        start_s = time.thread_time()
        for _ in range(_DIVISIONS):
            np.divide(self._dividend, self._values, out=self._values)
        return time.thread_time() - start_s


def in_words(slowness: float) -> str:
    """What a slow core is, for a message."""
    return (
        f"arithmetic takes {slowness - 1:.0%} longer than on the quiet machine (something else "
        "shares the core, or its clock is lower)"
    )


def _memory_of(device: Device) -> Path:
    """Where this machine's times are kept: in the user's cache, one file for each processor."""
    cache_home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    facts = f"{platform.node()} {device.processor} {device.processor_detail}"
    key = hashlib.sha256(facts.encode()).hexdigest()[:12]
    return Path(cache_home) / "latprof" / f"pace_{key}.json"


def _read(path: Path) -> list[float]:
    """The times of earlier calls; none where the file is missing or of something else."""
    try:
        rows = np.array(json.loads(path.read_text()), dtype=float)
    except (OSError, TypeError, ValueError):
        return []
    return rows.tolist() if rows.ndim == 1 and bool((rows > 0).all()) else []
