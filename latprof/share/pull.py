"""Pull: a shared table comes here whole or not at all, whenever it is killed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from latprof import PlaceError
from latprof.share.place import Place
from latprof.share.versions import compared, part_of, read_file, read_manifest, require_name
from lookup_tables.errors import ContractError, DeviceMismatch, TableError
from lookup_tables.storage.files import FORMER, PARTIAL, only_writer, sync_folder, write_whole
from lookup_tables.storage.manifest import (
    MANIFEST,
    FileRecord,
    Manifest,
    expected,
    grows,
    network_of,
    read_sealed,
    seal,
    unseal,
)
from lookup_tables.table.store import IDENTITY, LatencyTable

PULLING = ".pulling"  # marks a folder in which a pull is gathered
SWAPPING = ".swapping"  # beside it: the former table is about to make room
WHOLE = "whole"  # where the new table is put together


def pull(
    place: Place,
    device: str,
    folder: str | Path,
    networks: Sequence[str] = (),
    version: int | None = None,
    replace: bool = False,
) -> tuple[Manifest, list[str]]:
    """Fetch a table into a folder, verified before it is there; resumes what was interrupted.

    Returns what was asked for and which files the folder did not have. What else it holds of that
    very device is kept. Raises TableError where a file is not what the manifest says, and where
    the folder has other rows of the same network (`replace` takes the place's).
    """
    require_name(device, place)
    folder = Path(folder).resolve()
    partial = folder.with_name(folder.name + PARTIAL)
    if (partial / SWAPPING).exists():
        with only_writer(partial):
            _recover(folder, partial)
    asked = part_of(networks, read_manifest(place, device, version), place.where(device))
    _make_beside(partial)
    with only_writer(partial):
        return asked, _fetch_all(place, asked, partial, folder, replace, version is not None)


def _fetch_all(
    place: Place, asked: Manifest, partial: Path, folder: Path, replace: bool, exactly: bool
) -> list[str]:
    """Through a folder beside it, where an interrupted pull goes on; returns what was news.

    What is refused leaves no such folder: nothing could go on.
    """
    try:
        _fetch_beside(place, asked, partial)
        return _take_over(partial, asked, folder, replace, exactly)
    except PlaceError:
        raise
    except ContractError:
        _discard(partial)
        raise


def _make_beside(partial: Path) -> None:
    """The folder in which a pull is gathered; raises TableError where it is somebody else's."""
    if partial.exists() and not (partial / PULLING).exists():
        strange = [path.name for path in partial.iterdir() if not _is_of_a_pull(path.name)]
        if strange:
            raise TableError(
                f"this pull needs the folder {partial}, but it holds {strange[0]}, which no "
                "earlier pull wrote. Move it away, or pull elsewhere with --out"
            )
    partial.mkdir(parents=True, exist_ok=True)
    (partial / PULLING).touch()


def _is_of_a_pull(name: str) -> bool:
    known = (IDENTITY, MANIFEST, WHOLE, SWAPPING)
    return name in known or name.endswith(PARTIAL) or network_of(name) is not None


def _discard(partial: Path) -> None:
    """Delete what was gathered, what says whose it is last: a kill leaves no riddle."""
    for path in partial.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != PULLING:
            path.unlink(missing_ok=True)
    shutil.rmtree(partial, ignore_errors=True)


def _fetch_beside(place: Place, asked: Manifest, partial: Path) -> None:
    for path in partial.iterdir():
        if path.is_dir():
            shutil.rmtree(path)  # what was being put together
        elif path.name not in {*asked.files, PULLING, SWAPPING}:
            path.unlink()  # of another pull that was interrupted
    for name in asked.files:
        _fetch(place, asked, name, partial / name)
    beside = {name: r.model_copy(update={"at": None}) for name, r in asked.files.items()}
    write_whole(partial / MANIFEST, asked.model_copy(update={"files": beside}).to_json())
    _require_readable(partial)


def _take_over(
    partial: Path, asked: Manifest, folder: Path, replace: bool, exactly: bool
) -> list[str]:
    if expected(folder / IDENTITY):
        with only_writer(folder):
            return _move_in(partial, folder, [*asked.files], replace, exactly)
    if folder.exists() and any(folder.iterdir()):
        raise TableError(f"{folder} is not empty and is not a table; pull elsewhere with --out")
    if folder.exists():
        folder.rmdir()
    os.replace(partial, folder)
    (folder / PULLING).unlink()
    return sorted(asked.files)


def _recover(folder: Path, partial: Path) -> None:
    """Finish or undo what a pull was killed at while it put a new table in a former one's place.

    Raises TableError where somebody has begun another table there since.
    """
    former = folder.with_name(folder.name + FORMER)
    if former.exists() and not folder.exists():
        os.replace(former, folder)
    elif former.exists() and (partial / WHOLE).exists():
        raise TableError(
            f"a killed pull into {folder} left the former table in {former}, and another table "
            f"was begun since. To keep both, move one of them away and delete {partial}"
        )
    elif former.exists():
        shutil.rmtree(former)  # the new one is there
    (partial / SWAPPING).unlink()


def _fetch(place: Place, manifest: Manifest, name: str, target: Path) -> None:
    """Read one file to a folder, unless an interrupted pull left it there whole."""
    if not (target.exists() and manifest.files[name].matches(target.read_bytes())):
        write_whole(target, read_file(place, manifest, name))


def _require_readable(folder: Path) -> None:
    """Every row parsed: what was pushed broken does not arrive either."""
    table = LatencyTable.open(folder)
    for network in table.networks():
        table.rows(network)


def _move_in(
    partial: Path, folder: Path, names: Sequence[str], replace: bool, exactly: bool
) -> list[str]:
    """Add what was pulled to a table that is there already; returns the files that changed.

    Files that are damaged here are replaced. `exactly`: an older state than the folder's was asked
    for, which only `replace` may bring.
    """
    (folder / PULLING).unlink(missing_ok=True)  # of a first pull that was killed at its end
    table, pulled = LatencyTable.open(folder), LatencyTable.open(partial)
    try:
        table.device.require(pulled.device, f"what was pulled into {partial}")
    except DeviceMismatch as error:
        raise DeviceMismatch(f"{error}; or pull it into a folder of its own with --out") from None
    content = {name: (partial / name).read_bytes() for name in names}
    here = {*names, *(name for network in pulled.networks() for name in table.files(network))}
    known = {name: record for name in here if (record := _record_here(folder / name))}
    later = [n for n in content if grows(n) and n in known and known[n].continues(content[n])]
    if exactly and later and not replace:
        raise TableError(
            f"{folder} holds newer rows of {', '.join(later)}; pull that version elsewhere with "
            "--out, or overwrite them with --replace"
        )
    news, dropped = compared(content, known, str(folder), replace)
    if news or dropped:
        _swap(folder, partial, news, dropped, table.device.name)
    _discard(partial)
    return sorted(news)


def _swap(
    folder: Path, partial: Path, news: Mapping[str, bytes], dropped: set[str], device: str
) -> None:
    """Put a folder with the news in the place of a table: readers see the former one or this.

    Between the two renames there is none; the next pull undoes a kill just then (`_recover`).
    Raises TableError where the name that the former one gets meanwhile is taken.
    """
    former = folder.with_name(folder.name + FORMER)
    if former.exists():
        raise TableError(
            f"this pull must move {folder} to {former} for a moment, but {former} already exists. "
            "Move it away, or pull elsewhere with --out"
        )
    whole = partial / WHOLE
    shutil.rmtree(whole, ignore_errors=True)
    whole.mkdir()
    for path in folder.iterdir():
        if path.name not in {*news, *dropped, MANIFEST, PULLING}:
            _carry(path, whole / path.name)
    if (folder / MANIFEST).exists():
        shutil.copy2(folder / MANIFEST, whole / MANIFEST)  # no link: it is written anew
    for name in {*news, *dropped}:
        unseal(whole, name)
    for name in news:
        os.replace(partial / name, whole / name)
    seal(whole, device, news)
    shutil.copystat(folder, whole)
    (partial / SWAPPING).touch()
    os.replace(folder, former)
    os.replace(whole, folder)
    sync_folder(folder.parent)
    shutil.rmtree(former, ignore_errors=True)
    (partial / SWAPPING).unlink()


def _carry(path: Path, to: Path) -> None:
    """The same file or folder under another name; linked where the file system can."""

    def link(source: str, target: str) -> None:
        try:
            os.link(source, target)
        except OSError:
            write_whole(target, Path(source).read_bytes())
            shutil.copystat(source, target)

    if path.is_symlink():
        os.symlink(os.readlink(path), to)
    elif path.is_dir():
        shutil.copytree(path, to, copy_function=link, symlinks=True)
    else:
        link(str(path), str(to))


def _record_here(path: Path) -> FileRecord | None:
    """What a file here holds; None if it is missing or damaged."""
    try:
        return FileRecord.of(path.name, read_sealed(path))
    except (FileNotFoundError, TableError):
        return None
