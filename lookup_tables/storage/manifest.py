"""Manifest: of which files a finished table consists, and what is in them, line by line.

Whoever finishes a table seals it; whoever reads a sealed one finds out at once if it was damaged,
edited or copied incompletely. Rows are only ever appended, so a sealed file may have grown since.
"""

from __future__ import annotations

import builtins
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lookup_tables.errors import NewerFormat, TableError
from lookup_tables.storage.files import first_fault, refuse_newer, write_whole

FORMAT = 1
MANIFEST = "manifest.json"
ROWS = ".jsonl"
_LINE_DIGITS = 8  # of a line's digest: they only say where, the file's digest says whether

# Names become paths on other people's machines: nothing that leaves the table's folder.
FILE_NAME = r"[^/\\.\x00-\x1f][^/\\\x00-\x1f]*"
FileName = Annotated[str, Field(pattern=f"^{FILE_NAME}$")]
DEVICE_NAME = r"^[a-z0-9][a-z0-9_.-]*$"  # its table's folder
StoredAt = Annotated[str, Field(pattern=f"^({FILE_NAME}/)*{FILE_NAME}$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


# What a manifest's check covers: the fields that the first one had.
_DIGESTED = {"format", "device", "version"}
_DIGESTED_OF_FILES = {"bytes", "sha256", "lines", "at"}


class FileRecord(BaseModel):
    """One file as it was sealed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: Annotated[int, Field(ge=0)]
    sha256: Digest
    lines: tuple[str, ...] = ()  # of rows: the first digits of each line's SHA-256
    at: StoredAt | None = None  # in a shared place: where it lies, if not under its own name

    @classmethod
    def of(cls, name: str, data: builtins.bytes) -> FileRecord:
        lines = tuple(map(_line_digest, data.splitlines())) if grows(name) else ()
        return cls(bytes=len(data), sha256=hashlib.sha256(data).hexdigest(), lines=lines)

    def matches(self, data: builtins.bytes) -> bool:
        return len(data) == self.bytes and hashlib.sha256(data).hexdigest() == self.sha256

    def continues(self, data: builtins.bytes) -> bool:
        """Whether this file is `data` with more rows appended."""
        lines = tuple(map(_line_digest, data.splitlines()))
        return len(data) < self.bytes and self.lines[: len(lines)] == lines

    def begins(self, data: builtins.bytes) -> bool:
        """Whether `data` is this file, or this file with more appended."""
        return len(data) >= self.bytes and self.matches(data[: self.bytes])


class Manifest(BaseModel):
    """The files of one table. `check` is the digest of all other fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    device: Annotated[str, Field(pattern=DEVICE_NAME)]
    version: Annotated[int, Field(ge=0)] = 0  # counted by the place where it is shared; 0: nowhere
    files: dict[FileName, FileRecord]
    check: str = ""

    def sealed(self) -> Manifest:
        return self.model_copy(update={"check": self._digest()})

    def _digest(self) -> str:
        """Of _DIGESTED, and of what was added since where it is not as it always was."""
        data = self.model_dump(mode="json", include=_DIGESTED) | self.model_dump(
            mode="json", exclude=_DIGESTED | {"check", "files"}, exclude_defaults=True
        )
        data["files"] = {
            name: record.model_dump(mode="json", include=_DIGESTED_OF_FILES, exclude_none=True)
            | record.model_dump(mode="json", exclude=_DIGESTED_OF_FILES, exclude_defaults=True)
            for name, record in self.files.items()
        }
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()

    def networks(self) -> list[str]:
        return sorted(Path(name).stem for name in self.files if grows(name))

    def to_json(self) -> str:
        """One file a line, so that a version control system shows which of them changed."""
        data = self.sealed().model_dump(mode="json", exclude_defaults=True)
        files = ",\n".join(
            f"  {json.dumps(name)}: {json.dumps(record, separators=(',', ':'))}"
            for name, record in sorted(data.pop("files", {}).items())
        )
        head = json.dumps({"format": self.format} | data)
        return f'{head[:-1]}, "files": {{\n{files}\n}}}}\n'

    @classmethod
    def parse(cls, text: str | bytes, where: str | Path) -> Manifest:
        """Read a manifest; raises TableError naming `where`."""
        refuse_newer(where, text, FORMAT, NewerFormat)
        try:
            found = cls.model_validate_json(text)
        except ValidationError as error:
            raise TableError(
                f"{where} is damaged: {first_fault(error)}. Copy the table again from its source"
            ) from None
        if found.check != found._digest():
            raise TableError(
                f"{where}: its checksum does not match, so the file is damaged or was edited. "
                "Copy the table again from its source"
            )
        return found


def grows(name: str) -> bool:
    """Whether rows are appended to such a file."""
    return name.endswith(ROWS)


def network_of(name: str) -> str | None:
    """The network that a table's file belongs to, None for the device's own."""
    suffixes = (ROWS, ".network.json", ".prior.json", ".repeats.json")
    return next((name.removesuffix(suffix) for suffix in suffixes if name.endswith(suffix)), None)


def load_manifest(folder: Path) -> Manifest | None:
    """The manifest of a table's folder, None if it was never sealed; raises TableError."""
    try:
        return Manifest.parse((folder / MANIFEST).read_bytes(), folder / MANIFEST)
    except (FileNotFoundError, NotADirectoryError):
        return None


def expected(path: Path) -> bool:
    """Whether a file is there, or should be, by the manifest beside it."""
    if path.exists():
        return True
    manifest = load_manifest(path.parent)
    return manifest is not None and path.name in manifest.files


def read_sealed(path: Path) -> bytes:
    """A file's content, verified where the manifest beside it lists it.

    Raises TableError if it is not what was sealed, FileNotFoundError if no one ever sealed it.
    """
    manifest = load_manifest(path.parent)
    record = manifest.files.get(path.name) if manifest else None
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        if record is None:
            raise
        raise TableError(
            f"{path} is missing, though {MANIFEST} lists it: the table was copied incompletely. "
            "Copy the file from the table's source, or profile again"
        ) from None
    if record is not None:
        verify(path, data, record)
    return data


def seal(
    folder: Path, device: str, names: Iterable[str], rewritten: Iterable[str] = ()
) -> Manifest:
    """Record these files of a table as they are now, beside those that were sealed before.

    What was sealed already may only have grown, but for the files that were `rewritten` on
    purpose; raises TableError otherwise: damage is never sealed.
    """
    former = load_manifest(folder)
    files = dict(former.files) if former else {}
    for name in names:
        path = folder / name
        data = path.read_bytes() if name in rewritten else read_sealed(path)
        files[name] = FileRecord.of(name, data)
    if former and former.files == files:
        return former
    manifest = Manifest(device=device, version=former.version if former else 0, files=files)
    write_whole(folder / MANIFEST, manifest.to_json())
    return manifest.sealed()


def unseal(folder: Path, name: str) -> None:
    """Forget one file: it is written anew."""
    former = load_manifest(folder)
    if former and name in former.files:
        files = {other: record for other, record in former.files.items() if other != name}
        left = former.model_copy(update={"files": files})
        write_whole(folder / MANIFEST, left.to_json())


def verify(path: str | Path, data: bytes, record: FileRecord) -> None:
    """Raise TableError, naming file and line, unless `data` is what was sealed.

    More rows than were sealed are no damage: a profile went on.
    """
    if record.begins(data) if grows(str(path)) else record.matches(data):
        return
    lines = data.splitlines()
    wrong = next(
        (
            number
            for number, (line, digest) in enumerate(zip(lines, record.lines, strict=False), 1)
            if _line_digest(line) != digest
        ),
        None,
    )
    if wrong is not None:
        found = f", line {wrong}: differs from what was sealed"
    elif len(data) < record.bytes:
        found = f": holds {len(data)} of {record.bytes} bytes: it was copied incompletely or cut"
    else:
        found = ": differs from what was sealed"
    raise TableError(
        f"{path}{found}. Never edit a table: copy the file again from its source, or delete it "
        "and profile again"
    )


def _line_digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()[:_LINE_DIGITS]
