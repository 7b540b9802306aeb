"""This machine → Device, and a clear answer when another device was asked for."""

from __future__ import annotations

from latprof import DeviceNotHere
from latprof.runtimes import RUNTIMES
from latprof.runtimes.base import ONNX_RUNTIME, PRECISIONS, Usage
from lookup_tables.device import Device
from lookup_tables.table.home import home_of


def this_device(asked: str = "cpu", usage: Usage | None = None) -> Device:
    """The device of this machine that `asked` names: `cpu`, `cuda`, or the hardware's short name.

    A short name is what the hardware reports, in lower case and without its maker:
    `NVIDIA TITAN RTX` is titan_rtx. `cuda` is the first card the driver lists. Raises
    DeviceNotHere, saying what is here and where a table may come from.
    """
    usage = usage or Usage()
    entries = [entry for entry in RUNTIMES.values() if entry.runtime == usage.runtime]
    if not entries:
        raise DeviceNotHere(
            f"--runtime {usage.runtime}: expected one of {', '.join(runtime_names())}"
        )
    if usage.precision not in PRECISIONS:
        raise DeviceNotHere(
            f"--precision {usage.precision}: expected one of {', '.join(PRECISIONS)}"
        )
    for entry in entries:
        device = entry.identify(asked, usage)
        if device is not None:
            return device
    found = [text for entry in entries for text in entry.here(usage)]
    raise DeviceNotHere(_not_here(asked, found))


def runtime_names() -> list[str]:
    """By which `--runtime` chooses, the usual one first."""
    return [*dict.fromkeys([ONNX_RUNTIME, *(entry.runtime for entry in RUNTIMES.values())])]


def _not_here(asked: str, found: list[str]) -> str:
    here = " and ".join(found)
    committed = home_of(asked)
    where = (
        f"its table is here: --table {committed}"
        if committed.exists()
        else f"run `make profile DEVICE={asked}` on a machine that has one and copy its folder "
        f"to {committed}"
    )
    return (
        f"device {asked} is not here. This machine has: {here}. "
        f"To prune for {asked} without it you need its table: {where}"
    )
