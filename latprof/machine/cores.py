"""Which core a single thread runs on: the cores of a shared machine are slow at different times.

Their slow phases do not coincide (benchmarks/cores.py), so a measurement that has become slow goes
on from another core.
"""

from __future__ import annotations

import os
from pathlib import Path

from lookup_tables.device import Device

_PATIENCE = 2  # slow runs before the first move; twice as many before each further one


class Cores:
    """The cores that a network may run on, one at a time while this is entered.

    Does nothing on GPUs, with more than one thread, and where the system cannot bind a thread.
    """

    def __init__(self, device: Device, on_processor: bool = True) -> None:
        """`on_processor`: whether the device's work runs on the cores of this process."""
        single = on_processor and device.threads == 1 and hasattr(os, "sched_setaffinity")
        self._allowed = os.sched_getaffinity(0) if single else set()
        self._near = _of_one_package(sorted(self._allowed))
        self._slow, self._patience = 0, _PATIENCE

    def __len__(self) -> int:
        return max(1, len(self._near))

    def __enter__(self) -> Cores:
        self._bind({*self._near[:1]})
        return self

    def __exit__(self, *_) -> None:
        self._bind(self._allowed)

    def move(self) -> None:
        """Go on from the next core."""
        self._near = [*self._near[1:], *self._near[:1]]
        self._bind({*self._near[:1]})

    def saw(self, quiet: bool) -> None:
        """Take note of a run; after several slow ones in a row, move."""
        if quiet:
            self._slow, self._patience = 0, _PATIENCE
            return
        self._slow += 1
        if self._slow >= self._patience:
            self.move()
            self._slow, self._patience = 0, 2 * self._patience

    def _bind(self, cores: set[int]) -> None:
        if cores:
            os.sched_setaffinity(0, cores)


def _of_one_package(cores: list[int]) -> list[int]:
    """Those that share the first one's memory."""
    packages = [_package(core) for core in cores]
    return [core for core, package in zip(cores, packages, strict=True) if package == packages[0]]


def _package(core: int) -> str:
    topology = Path(f"/sys/devices/system/cpu/cpu{core}/topology/physical_package_id")
    return topology.read_text().strip() if topology.exists() else ""
