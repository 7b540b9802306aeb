"""Device: everything that must not change for a latency to stay true."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lookup_tables.errors import DeviceMismatch, TableError
from lookup_tables.files import refuse_newer, write_whole

FORMAT = 1


class Device(BaseModel):
    """One processor with one way of running networks on it: the identity of a table.

    Two devices with any field but `name` different are different devices: their latencies are
    never mixed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")]  # its table's folder
    kind: Literal["cpu", "cuda"]
    processor: str  # as the hardware reports itself
    processor_detail: dict[str, str | int] = {}  # CPU: family, model, caches; GPU: memory, SMs
    driver: str | None = None  # GPU only, as are the next two
    cuda: str | None = None
    cudnn: str | None = None
    runtime: str = "onnxruntime"
    runtime_version: str
    provider: str
    provider_options: dict[str, str] = {}
    precision: Literal["fp32", "fp16"] = "fp32"
    batch: Annotated[int, Field(gt=0)] = 1
    threads: Annotated[int, Field(gt=0)] = 1
    method: int = 1  # version of the measuring method; latencies of two methods do not compare

    def differences(self, other: Device) -> dict[str, tuple[object, object]]:
        """Field → (here, there) for everything that decides a latency and differs."""
        here, there = (device.model_dump(exclude={"name", "format"}) for device in (self, other))
        return {key: (here[key], there[key]) for key in here if here[key] != there[key]}

    def require(self, found: Device, where: str) -> None:
        """Raise DeviceMismatch naming every field in which `found` differs from this device."""
        differences = self.differences(found)
        if differences:
            detail = "; ".join(
                f"{field}: expected {expected}, found {actual}"
                for field, (expected, actual) in differences.items()
            )
            raise DeviceMismatch(
                f"{where} was measured on another device ({detail}). "
                "Measure this one with: latprof profile --out ANOTHER_FOLDER, or use the table of "
                "the device that will run the network"
            )

    @classmethod
    def load(cls, path: str | Path) -> Device:
        """Read an identity file; raises TableError."""
        path = Path(path)
        try:
            text = path.read_text()
            refuse_newer(path, text, FORMAT, TableError)
            return cls.model_validate_json(text)
        except (FileNotFoundError, NotADirectoryError):
            raise TableError(
                f"{path.parent} is no latency table: {path.name} is missing. Make one with "
                "`latprof profile`, or pass --table with the folder of one you were given"
            ) from None
        except ValidationError as error:
            detail = error.errors()[0]
            where = ".".join(map(str, detail["loc"]))
            raise TableError(f"{path}: {where}: {detail['msg']}") from None

    def save(self, path: str | Path) -> None:
        write_whole(path, self.model_dump_json(indent=1, exclude_none=True) + "\n")
