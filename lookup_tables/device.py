"""Device: everything that must not change for a latency to stay true."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lookup_tables.errors import DeviceMismatch, TableError
from lookup_tables.storage.files import first_fault, refuse_newer, write_whole
from lookup_tables.storage.manifest import DEVICE_NAME, read_sealed

FORMAT = 2
NAME = re.compile(DEVICE_NAME)
SHOWN = 3  # differences in a message
BLOCK_OPTION = "block"  # the option of a device whose kernels leave out weights
BYTES_TAP = 4  # neighbouring input channels whose weights such kernels leave out together in INT8
METHOD = 2  # of measuring: raised whenever a latency comes to mean something else


class Device(BaseModel):
    """One processor with one way of running networks on it: the identity of a table.

    Two devices that `differences` tells apart are different devices: their latencies are never
    mixed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    name: Annotated[str, Field(pattern=NAME.pattern)]  # its table's folder
    kind: Annotated[str, Field(pattern="^[a-z0-9_]+$")]  # cpu, cuda, or another runtime's
    processor: str  # as the hardware reports itself
    processor_detail: dict[str, str | int] = {}  # CPU: family, model, caches; GPU: memory, SMs
    driver: str | None = None  # GPU only, as are the next two
    cuda: str | None = None
    cudnn: str | None = None
    runtime: str = "onnxruntime"
    runtime_version: str
    provider: str
    provider_options: dict[str, str] = {}  # algorithm search, streams
    session_options: dict[str, str] = {}  # optimisation level, spinning, thread pools
    layout: Literal["nchw", "nhwc"] = "nchw"  # that kernels are asked to work in
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    batch: Annotated[int, Field(gt=0)] = 1
    threads: Annotated[int, Field(gt=0)] = 1
    affinity: str | None = None  # the processors that the threads may run on, as in 0-3,8
    tool_version: str | None = None  # that began the table; recorded, never compared
    method: int = METHOD

    @property
    def block(self) -> int | None:
        """Output channels whose weights are kept together; None where no weights are left out."""
        told = self.provider_options.get(BLOCK_OPTION)
        return int(told) if told else None

    @property
    def tap(self) -> int:
        """Neighbouring input channels whose weights are kept together, where any are left out."""
        return BYTES_TAP if self.precision == "int8" else 1

    def differences(self, other: Device) -> dict[str, tuple[object, object]]:
        """Field → (here, there) for everything that decides a latency and differs.

        What the tool's version may change of it, `method` says. One thread runs on one core,
        whichever: the processors that it may choose from only count where there are more. Of
        nested options the ones that differ are named: `provider_options.cudnn_conv_algo_search`.
        """
        names = {"name", "format", "tool_version"}
        if self.threads == other.threads == 1:
            names |= {"affinity"}
        here, there = (_flat(device.model_dump(exclude=names)) for device in (self, other))
        keys = [*here, *(key for key in there if key not in here)]
        pairs = {key: (here.get(key), there.get(key)) for key in keys}
        return {key: (a, b) for key, (a, b) in pairs.items() if a != b}

    def require(self, found: Device, where: str) -> None:
        """Raise DeviceMismatch naming the first fields in which `found` differs from this device.

        How many more there are is told.
        """
        differences = self.differences(found)
        if differences:
            detail = "; ".join(
                f"{field}: expected {expected}, found {actual}"
                for field, (expected, actual) in [*differences.items()][:SHOWN]
            )
            more = len(differences) - SHOWN
            detail += f"; and {more} more" if more > 0 else ""
            raise DeviceMismatch(
                f"{where} was measured on another device ({detail}). Use this device's table, or "
                "make one: latprof profile --out ANOTHER_FOLDER"
            )

    @classmethod
    def load(cls, path: str | Path) -> Device:
        """Read an identity file; raises TableError."""
        path = Path(path)
        try:
            return cls.parse(read_sealed(path), path)
        except (FileNotFoundError, NotADirectoryError):
            raise TableError(
                f"{path.parent} is not a latency table: {path.name} is missing. Make one with "
                "`latprof profile`, or pass an existing table's folder with --table"
            ) from None

    @classmethod
    def parse(cls, text: bytes, where: str | Path) -> Device:
        """From the content of an identity file; raises TableError naming `where`."""
        refuse_newer(where, text, FORMAT, TableError)
        if _format(text) < FORMAT:
            raise TableError(
                f"{where}: format {_format(text)} comes from an older method, whose latencies "
                "cannot be compared with this version's. Move the folder away and measure again "
                "with `latprof profile`, or choose another --out"
            )
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise TableError(f"{where}: {first_fault(error)}") from None

    def save(self, path: str | Path) -> None:
        write_whole(path, self.model_dump_json(indent=1, exclude_none=True) + "\n")


def _flat(data: dict, prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in data.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _format(text: bytes) -> int:
    try:
        found = json.loads(text).get("format", FORMAT)
    except (ValueError, AttributeError):
        return FORMAT  # no identity at all: validation says so
    return found if isinstance(found, int) else FORMAT
