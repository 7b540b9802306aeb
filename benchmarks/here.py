"""This device's table, where two devices may share a name."""

from __future__ import annotations

from pathlib import Path

from latprof.runtimes.base import Usage
from latprof.runtimes.here import this_device
from lookup_tables.device import Device
from lookup_tables.table.home import DATA, named_apart
from lookup_tables.table.store import LatencyTable


def table_here(threads: int = 1, tables: Path = DATA) -> tuple[Device, LatencyTable]:
    """This device by the name its table has, and that table; raises DeviceMismatch, TableError."""
    device, _ = named_apart(this_device("cpu", Usage(threads)))
    table = LatencyTable.open(tables / device.name)
    device.require(table.device, str(table.folder))
    return device, table
