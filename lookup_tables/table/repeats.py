"""How well a table repeats, as `latprof repeat` leaves it beside the rows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lookup_tables.errors import TableError
from lookup_tables.storage.files import first_fault, write_whole
from lookup_tables.storage.manifest import expected, read_sealed

_Relative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Spread(_File):
    """Relative standard deviations over the tables."""

    count: Annotated[int, Field(ge=1)]
    median_spread: _Relative
    p95_spread: _Relative
    worst_spread: _Relative


class Repeatability(_File):
    """What rebuilding a table several times changed."""

    network: str
    tables: Annotated[int, Field(ge=2)]
    entries: Spread
    predictions: Spread  # speedups of random networks, half on the menu, half at any width
    flagged: tuple[int, ...]  # entries that `latprof diff` flags, first table against each other

    @classmethod
    def load(cls, path: Path) -> Repeatability | None:
        """None where no one ever rebuilt the table; raises TableError for a damaged file."""
        if not expected(path):
            return None
        try:
            return cls.model_validate_json(read_sealed(path))
        except ValidationError as error:
            raise TableError(
                f"{path}: {first_fault(error)}. Delete it, then run `latprof repeat` again"
            ) from None

    def save(self, path: Path) -> None:
        write_whole(path, self.model_dump_json(indent=1) + "\n")
