"""Prior: what a table of another device says of a network's layers, as a file beside the rows.

`lookup_tables/model/prior.py` makes it, and reads this device's rows by it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lookup_tables.device import Device
from lookup_tables.errors import TableError
from lookup_tables.layer import LayerSpec
from lookup_tables.storage.files import first_fault, refuse_newer, write_whole
from lookup_tables.storage.manifest import read_sealed

FORMAT = 1


class PriorLayer(BaseModel):
    """One layer's share of the dense network, raw as it was timed, and its runtime nodes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer: LayerSpec
    share: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    nodes: Annotated[float, Field(ge=0)]


class Prior(BaseModel):
    """What one table says of one network; kept beside the rows that it helps to read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    device: Device
    fingerprint: str  # of the network
    steps: dict[str, tuple[int, int]]  # kind of layer → block, alignment
    layers: tuple[PriorLayer, ...]

    @classmethod
    def load(cls, path: Path) -> Prior:
        """Read a prior; raises TableError, and FileNotFoundError if there is none."""
        text = read_sealed(path)
        refuse_newer(path, text, FORMAT, TableError)
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise TableError(f"{path}: {first_fault(error)}") from None

    def save(self, path: Path) -> None:
        """One layer a line."""
        data = self.model_dump(mode="json", exclude_none=True, exclude={"layers"})
        head = ",\n".join(
            f" {json.dumps(name)}: {json.dumps(value)}" for name, value in data.items()
        )
        rows = ",\n".join(
            f'  {{"layer": {json.dumps(one.layer.to_json())}, "share": {one.share!r}, '
            f'"nodes": {one.nodes!r}}}'
            for one in self.layers
        )
        write_whole(path, f'{{\n{head},\n "layers": [\n{rows}\n ]\n}}\n')
