"""Runtimes: what opens a network, runs it and times its layers.

A runtime is a file and an entry here. Entries are light: libraries that only one of them needs are
imported when it opens a network.
"""

from __future__ import annotations

from latprof import DeviceNotHere
from latprof.runtimes.base import Runtime
from latprof.runtimes.ort_cpu import OrtCpu
from latprof.runtimes.ort_cuda import OrtCuda
from latprof.runtimes.ort_sparse import OrtSparse
from lookup_tables.device import Device
from lookup_tables.registry import Registry

RUNTIMES: Registry[Runtime] = Registry("runtime", (OrtCpu(), OrtCuda(), OrtSparse()))


def runtime_of(device: Device) -> Runtime:
    """What runs networks on such a device; raises DeviceNotHere where nothing here does."""
    for entry in RUNTIMES.values():
        if (entry.runtime, entry.kind) == (device.runtime, device.kind):
            return entry
    raise DeviceNotHere(
        f"{device.name} needs {device.runtime} on {device.kind}, which this version does not "
        f"support; it supports {', '.join(RUNTIMES)}"
    )
