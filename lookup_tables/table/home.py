"""Where the tables of devices lie, and under which names."""

from __future__ import annotations

import re
from itertools import chain, count
from pathlib import Path

from lookup_tables.device import Device
from lookup_tables.errors import TableError
from lookup_tables.storage.files import FORMER, PARTIAL
from lookup_tables.storage.manifest import expected
from lookup_tables.table.store import IDENTITY, LatencyTable

DATA = Path(__file__).parents[1] / "data"
ELSEWHERE = Path("tables")  # where tables go if this package was installed and is no checkout


def home_of(device: str) -> Path:
    """The folder of a device's table unless another one is named."""
    is_checkout = (DATA.parents[1] / "pyproject.toml").is_file()
    return (DATA if is_checkout else ELSEWHERE) / device


def named_apart(device: Device) -> tuple[Device, dict[str, tuple[object, object]]]:
    """The device by a name whose home is free or holds its own rows already.

    A table of this very device keeps its name, whatever that is. Processors of one name differ: a
    virtual machine may hide their vector units, another runtime may run on them. Where NAME's table
    is of another one, the first thing that differs is added: `amd_epyc_1t_avx2`, then
    `amd_epyc_1t_avx2_2`. Also returns all that differs, as (here, there). Raises TableError for a
    table in the way that cannot be read.
    """
    if (known := _known_as(device)) is not None:
        return device.model_copy(update={"name": known}), {}
    taken = _differences_at(home_of(device.name), device)
    if not taken:
        return device, {}
    here = str(next(iter(taken.values()))[0]).lower()
    told = f"{device.name}_{re.sub('[^a-z0-9.]+', '-', here).strip('-')}"
    names = chain([told], (f"{told}_{number}" for number in count(2)))
    free = next(name for name in names if not _differences_at(home_of(name), device))
    return device.model_copy(update={"name": free}), taken


def _known_as(device: Device) -> str | None:
    """The name of a table of this very device: its own home, or one that lies beside it."""
    home = home_of(device.name)
    beside = sorted(home.parent.glob(f"*/{IDENTITY}"))
    for identity in sorted(beside, key=lambda path: path.parent != home):  # its own home first
        if identity.parent.suffix in (PARTIAL, FORMER):  # a pull's, to be finished or undone
            continue
        try:
            found = Device.load(identity)
        except TableError:
            continue
        if found.kind == device.kind and not device.differences(found):
            return identity.parent.name
    return None


def _differences_at(folder: Path, device: Device) -> dict[str, tuple[object, object]]:
    if not expected(folder / IDENTITY):
        return {}
    return device.differences(LatencyTable.open(folder).device)
