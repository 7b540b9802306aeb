"""NVIDIA's cards, as their driver lists them; and slices of cards (MIG)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass, fields, replace

from latprof import DeviceNotHere
from latprof.machine.processor import slug
from lookup_tables.device import Device


@dataclass(frozen=True, slots=True)
class Gpu:
    """One card as the driver reports it."""

    name: str
    uuid: str
    memory: str
    driver: str
    compute_capability: str
    max_sm_clock: str

    @property
    def short_name(self) -> str:
        """The short name by which users ask for it: without its maker."""
        return re.sub(r"^(nvidia_)?((geforce|tesla|quadro)_)?", "", slug(self.name))


def uuid_of(device: Device) -> str:
    """The UUID of this machine's first card of the device's kind; raises DeviceNotHere.

    Not part of the identity: another card of the same kind is the same device.
    """
    for gpu in gpus():
        if gpu.name == device.processor:
            return gpu.uuid
    raise DeviceNotHere(
        f"device {device.name} is not here: the driver no longer lists a {device.processor}"
    )


_QUERY = "name,uuid,memory.total,driver_version,compute_cap,clocks.max.sm"


def gpus() -> list[Gpu]:
    """The NVIDIA GPUs that the driver reports and CUDA_VISIBLE_DEVICES allows, in the driver's
    order; none without a driver. Raises DeviceNotHere where the driver does not answer."""
    if shutil.which("nvidia-smi") is None:
        return []
    found = parse_gpus(_told(f"--query-gpu={_QUERY}", "--format=csv,noheader"))
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed and "MIG-" in allowed:
        found += parse_slices(_told("-L"), found)
    return visible(found, allowed)


def _told(*options: str) -> str:
    """What nvidia-smi prints, nothing where it fails; raises DeviceNotHere where it hangs."""
    command = ["nvidia-smi", *options]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except subprocess.TimeoutExpired:
        raise DeviceNotHere(
            "nvidia-smi did not answer within 20 s; check the NVIDIA driver"
        ) from None
    return answer.stdout if answer.returncode == 0 else ""


def visible(found: list[Gpu], allowed: str | None) -> list[Gpu]:
    """Those that CUDA_VISIBLE_DEVICES names by number or UUID; all where it is not set.

    Numbers count in the driver's order, which is CUDA's where all cards are alike. A slice of a
    card (MIG) is named by its own UUID only.
    """
    if allowed is None:
        return found
    names = [name.strip() for name in allowed.split(",") if name.strip()]
    return [
        gpu
        for number, gpu in enumerate(found)
        if (str(number) in names and not gpu.uuid.startswith("MIG-"))
        or any(n.startswith(("GPU-", "MIG-")) and gpu.uuid.startswith(n) for n in names)
    ]


def parse_slices(listing: str, cards: list[Gpu]) -> list[Gpu]:
    """The slices (MIG) of some cards in what `nvidia-smi -L` prints.

    Each is a device of its own, named as CUDA names it: `NVIDIA A100-SXM4-40GB MIG 1g.5gb`.
    """
    by_uuid = {card.uuid: card for card in cards}
    slices, card = [], None
    for line in listing.splitlines():
        if match := re.match(r"GPU \d+: .*\(UUID: (GPU-[^)]+)\)", line):
            card = by_uuid.get(match[1])
        elif card and (match := re.match(r"\s+(MIG \S+)\s.*\(UUID: (MIG-[^)]+)\)", line)):
            slices.append(replace(card, name=f"{card.name} {match[1]}", uuid=match[2]))
    return slices


def parse_gpus(listing: str) -> list[Gpu]:
    """One Gpu a line of `nvidia-smi --format=csv,noheader`; lines of another shape are skipped."""
    rows = (line.split(", ") for line in listing.splitlines())
    return [Gpu(*(field.strip() for field in row)) for row in rows if len(row) == len(fields(Gpu))]
