"""Architecture: one answer of a search, and the file that holds it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lookup_tables.errors import ArchitectureError
from lookup_tables.storage.files import first_fault, write_whole


class Architecture(BaseModel):
    """One answer of a search: widths per group, removed blocks, densities per layer.

    A group, block or layer that is not named stays as it is in the dense network.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    widths: dict[str, int] = {}
    removed: tuple[str, ...] = ()
    density: dict[str, Annotated[float, Field(gt=0, le=1)]] = {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Architecture) and self._content == other._content

    def __hash__(self) -> int:
        return hash(self._content)

    @property
    def _content(self) -> tuple:
        """The same for the same choices, in whatever order they were written down."""
        parts = self.widths.items(), self.removed, self.density.items()
        return tuple(map(frozenset, parts))

    @classmethod
    def load(cls, path: str | Path) -> Architecture:
        """Read an architecture file; raises ArchitectureError naming the fault."""
        try:
            return cls.model_validate_json(Path(path).read_bytes())
        except FileNotFoundError:
            raise ArchitectureError(f"{path}: no such architecture file") from None
        except ValidationError as error:
            raise ArchitectureError(
                f"{path}: not an architecture: {first_fault(error)}. Expected "
                '{"widths": {"group": n}, "removed": ["block"], "density": {"layer": d}}'
            ) from None

    def save(self, path: str | Path) -> None:
        write_whole(path, self.model_dump_json(indent=1) + "\n")
