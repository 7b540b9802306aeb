"""Push tables to a shared place, pull them from there; a reader never sees a broken one.

A place holds, for every device:

    <device>/manifest.json              what is current: which files, of which content, lying where
    <device>/versions/000003.json       the same of every version; created, never replaced
    <device>/000003-1f2e3d4c/<file>     files that came with a version, named after their content

A writer adds files that nobody reads yet, then claims the next version by creating its manifest,
which only one of two writers can, then replaces `manifest.json`. One that was killed leaves files
that no manifest names. A table's own folder, sealed by `latprof profile` and committed to a git
repository, say, can be pulled from as well: its manifest names the files beside it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from latprof import PlaceError
from latprof.share.place import Place
from lookup_tables.device import NAME, Device
from lookup_tables.errors import ContractError, DeviceMismatch, NewerFormat, TableError
from lookup_tables.storage.files import FORMER, PARTIAL, only_writer, sync_folder, write_whole
from lookup_tables.storage.manifest import (
    MANIFEST,
    ROWS,
    FileRecord,
    Manifest,
    expected,
    grows,
    network_of,
    read_sealed,
    seal,
    unseal,
    verify,
)
from lookup_tables.table.store import IDENTITY, LatencyTable

INDEX = "index.json"  # the devices, for places that cannot list their folders
PULLING = ".pulling"  # marks a folder in which a pull is gathered
SWAPPING = ".swapping"  # beside it: the former table is about to make room
WHOLE = "whole"  # where the new table is put together
CLAIMS = 20  # writers that may come in between before one gives up


@dataclass(frozen=True, slots=True)
class Shared:
    """One device's table in a place."""

    device: Device
    manifest: Manifest


def push(
    table: LatencyTable,
    place: Place,
    networks: Sequence[str] = (),
    replace: bool = False,
    name: str | None = None,
) -> tuple[Manifest, list[str]]:
    """Share a table's networks; returns what is current now and which files came with it.

    Networks that only the place has are kept, and files that were damaged there are mended. The
    table is called `name` there, or like its device. Raises TableError for an unfinished network,
    and where the place has other rows of the same one (`replace` takes ours); DeviceMismatch where
    the place's table of that name is another device's.
    """
    name = name or table.device.name
    _require_name(name, place)
    with only_writer(table.folder):  # its manifest may be written anew
        ours = _content(table, networks)
    for _ in range(CLAIMS):
        current, number = _newest(place, name)
        theirs = _usable(place, current, ours) if current else {}
        if current and IDENTITY in theirs:
            _require_same_device(table.device, _device(place, current), place.where(name))
        news, dropped = _news(ours, theirs, place.where(name), replace)
        if current and not news:
            _make_current(place, current)
            return current, []
        kept = {file: record for file, record in theirs.items() if file not in dropped}
        claimed = _claim(place, name, number, kept, news)
        if claimed:
            _make_current(place, claimed)
            return claimed, sorted(news)
    raise PlaceError(f"{place.where(name)}: others keep writing it; try again later")


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
    _require_name(device, place)
    folder = Path(folder).resolve()
    partial = folder.with_name(folder.name + PARTIAL)
    if (partial / SWAPPING).exists():
        with only_writer(partial):
            _recover(folder, partial)
    asked = _of(networks, _manifest(place, device, version), place.where(device))
    _make_beside(partial)
    with only_writer(partial):
        return asked, _fetch_all(place, asked, partial, folder, replace, version is not None)


def shared(place: Place) -> tuple[list[Shared], list[str]]:
    """Every table of a place; and what is wrong with those that cannot be read."""
    found, problems = [], []
    for name in _devices(place):
        data = place.read(f"{name}/{MANIFEST}")
        if data is None:
            continue
        try:
            manifest = _parse(data, name, place.where(f"{name}/{MANIFEST}"))
            found.append(Shared(_device(place, manifest), manifest))
        except TableError as error:
            problems.append(str(error))
    return found, problems


# -- what is to be shared ----------------------------------------------------------------------


def _content(table: LatencyTable, networks: Sequence[str]) -> dict[str, bytes]:
    """File name → content of a table's networks, each read to its end and sealed."""
    names: dict[str, None] = {}
    for network in networks or table.networks():
        table.rows(network)
        if table.validation(network) is None:
            raise TableError(
                f"{table.path(network)}: its profile is not finished, so that nobody knows how "
                f"wrong it is. Finish it with: latprof profile --network {network} --out "
                f"{table.folder}, or name the networks to push with --network"
            )
        table.seal(network)
        names |= dict.fromkeys(table.files(network))
    if not names:
        raise TableError(f"{table.folder} holds no network yet: nothing to push")
    return {name: read_sealed(table.folder / name) for name in names}


def _news(
    ours: Mapping[str, bytes], theirs: Mapping[str, FileRecord], where: str, replace: bool
) -> tuple[dict[str, bytes], set[str]]:
    """(those of our files that the other side lacks or has an earlier state of, those of its files
    that belong to rows which ours replace)."""
    news = {} if IDENTITY in theirs else {IDENTITY: ours[IDENTITY]}
    dropped: set[str] = set()
    networks = {network_of(name) for name in ours}
    for network in sorted(each for each in networks if each is not None):
        mine = {name: data for name, data in ours.items() if network_of(name) == network}
        its = {name: r for name, r in theirs.items() if network_of(name) == network}
        rows = network + ROWS
        differing = {n: d for n, d in mine.items() if n not in its or not its[n].matches(d)}
        if rows not in its or its[rows].begins(mine[rows]):
            if rows in its and its[rows].matches(mine[rows]) and not replace:
                _require_alike({*differing} & {*its}, where)
            news |= differing
        elif replace:
            news |= mine
            dropped |= {*its} - {*mine}
        elif not its[rows].continues(mine[rows]):
            raise TableError(
                f"{rows}: {where} holds other rows of this network. Keep both under two names, "
                "join them with `latprof merge`, or give --replace to take the new ones"
            )
    return news, dropped


def _require_alike(differing: set[str], where: str) -> None:
    """Raise TableError where files beside the same rows differ: nobody knows which is right."""
    if differing:
        raise TableError(
            f"{where} has the same rows, but another {', '.join(sorted(differing))}; "
            "--replace takes the new one"
        )


def _of(networks: Sequence[str], manifest: Manifest, where: str) -> Manifest:
    """The part of a manifest that some networks need; all of it if none is named."""
    if not networks:
        return manifest
    missing = set(networks) - set(manifest.networks())
    if missing:
        raise TableError(
            f"{where} has no {', '.join(sorted(missing))}; it has: {', '.join(manifest.networks())}"
        )
    files = {
        name: record
        for name, record in manifest.files.items()
        if name == IDENTITY or network_of(name) in networks
    }
    return manifest.model_copy(update={"files": files})


# -- in the place ------------------------------------------------------------------------------


def _require_same_device(ours: Device, theirs: Device, where: str) -> None:
    try:
        ours.require(theirs, f"the table in {where}")
    except DeviceMismatch as error:
        raise DeviceMismatch(f"{error}; or push it under another name with --as NAME") from None


def _usable(place: Place, manifest: Manifest, ours: Mapping[str, bytes]) -> dict[str, FileRecord]:
    """The files of a place, but for those that are damaged there and that we have whole."""

    def is_lost(name: str, record: FileRecord) -> bool:
        if name not in ours or not record.matches(ours[name]):
            return False
        data = place.read(f"{manifest.device}/{record.at or name}")
        return data is None or not record.begins(data)

    return {name: r for name, r in manifest.files.items() if not is_lost(name, r)}


def _newest(place: Place, device: str) -> tuple[Manifest | None, int]:
    """The newest whole version, and the number of the next; raises TableError for a newer format.

    A version file that is not whole was left by a writer that died, on a file system that does
    not create files whole, or was damaged since; it is passed over.
    """
    numbers = sorted(
        int(name[: -len(".json")])
        for name in place.names(f"{device}/versions")
        if name.endswith(".json") and name[: -len(".json")].isdigit()
    )
    paths = [_version_path(device, number) for number in reversed(numbers)]
    whole = []
    for path in (f"{device}/{MANIFEST}", *paths):
        data = place.read(path)
        if data is None:
            continue
        try:
            whole.append(Manifest.parse(data, place.where(path)))
        except NewerFormat:
            raise
        except TableError:
            continue
        if path != f"{device}/{MANIFEST}":
            break  # the newest of the versions
    newest = max(whole, key=lambda manifest: manifest.version, default=None)
    own = newest is not None and any(record.at is None for record in newest.files.values())
    if own or place.read(f"{device}/{IDENTITY}") is not None:  # pulled ones have a version too
        raise TableError(
            f"{place.where(device)} is a table's own folder, not a shared place: pushing would "
            "break it. Push elsewhere, or copy the files and run latprof verify --seal there"
        )
    return newest, max([*numbers, newest.version if newest else 0]) + 1


def _claim(
    place: Place,
    device: str,
    number: int,
    kept: Mapping[str, FileRecord],
    news: Mapping[str, bytes],
) -> Manifest | None:
    """Write a version with these news; None if another writer took its number meanwhile."""
    digest = hashlib.sha256()
    for name in sorted(news):
        digest.update(hashlib.sha256(news[name]).digest())
    files = dict(kept)
    for name, data in news.items():
        at = f"{number:06}-{digest.hexdigest()[:8]}/{name}"
        if place.read(f"{device}/{at}") != data:
            place.write(f"{device}/{at}", data)
        files[name] = FileRecord.of(name, data).model_copy(update={"at": at})
    manifest = Manifest(device=device, version=number, files=files)
    text = manifest.to_json().encode()
    return manifest if place.create(_version_path(device, number), text) else None


def _make_current(place: Place, manifest: Manifest) -> None:
    """Let readers see a version, or the newest if others have claimed further ones since.

    Every writer's last act is to look: who overwrote a newer version with an older one mends it.
    """
    path = f"{manifest.device}/{MANIFEST}"
    for _ in range(CLAIMS):
        found, _ = _newest(place, manifest.device)
        newest = max((manifest, found or manifest), key=lambda one: one.version)
        text = newest.to_json().encode()
        if place.read(path) == text:
            break
        place.write(path, text)
    for _ in range(CLAIMS):
        index = json.dumps({"format": 1, "devices": _devices(place)}).encode()
        if place.read(INDEX) == index:
            break
        place.write(INDEX, index)


def _devices(place: Place) -> list[str]:
    """Names of what may be tables: a place that cannot be listed goes by its index."""
    try:
        indexed = json.loads(place.read(INDEX) or b"{}")["devices"]
        indexed = [name for name in indexed if isinstance(name, str)]
    except (ValueError, TypeError, KeyError):
        indexed = []  # none yet, or damaged: the next push writes it anew
    names = {*indexed, *place.names()} - {INDEX}
    return sorted(name for name in names if NAME.fullmatch(name))


def _manifest(place: Place, device: str, version: int | None) -> Manifest:
    path = f"{device}/{MANIFEST}" if version is None else _version_path(device, version)
    data = place.read(path)
    if data is None and version is not None and (now := place.read(f"{device}/{MANIFEST}")):
        current = Manifest.parse(now, place.where(f"{device}/{MANIFEST}")).version
        raise TableError(f"{place.where(path)}: there is none; the current version is {current}")
    if data is None:
        tables = [name for name in _devices(place) if place.read(f"{name}/{MANIFEST}")]
        known = ", ".join(tables) or "none"
        raise TableError(f"{place.where(path)}: there is none. Devices there: {known}")
    return _parse(data, device, place.where(path))


def _parse(data: bytes, device: str, where: str) -> Manifest:
    """A place's manifest; raises TableError unless it is of this device and lists a table's files.

    Whoever can write a place must not be able to write anything else on a reader's machine.
    """
    found = Manifest.parse(data, where)
    if found.device != device or IDENTITY not in found.files:
        raise TableError(f"{where} is of {found.device}, not of {device}")
    strange = [name for name in found.files if name != IDENTITY and network_of(name) is None]
    if strange:
        raise TableError(f"{where} lists {strange[0]}, which is no file of a table")
    return found


def _require_name(name: str, place: Place) -> None:
    if not NAME.fullmatch(name):
        raise PlaceError(
            f"{name!r} cannot be a table's name in {place.url}: use small letters, digits, '_', "
            "'-' and '.', a letter or digit first"
        )


def _version_path(device: str, number: int) -> str:
    return f"{device}/versions/{number:06}.json"


def _device(place: Place, manifest: Manifest) -> Device:
    return Device.parse(_read(place, manifest, IDENTITY), place.where(manifest.device))


def _read(place: Place, manifest: Manifest, name: str) -> bytes:
    """One file as it was sealed; raises TableError naming file and line."""
    record = manifest.files[name]
    path = f"{manifest.device}/{record.at or name}"
    data = place.read(path)
    if data is None:
        raise TableError(
            f"{place.where(path)} is missing, though the manifest lists it: the table was copied "
            "there incompletely. Push it again"
        )
    verify(place.where(path), data, record)
    return data[: record.bytes]  # rows that came after it was sealed are not part of it


# -- in a folder here --------------------------------------------------------------------------


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
                f"{partial} is in the way of this pull, and no earlier pull left {strange[0]} "
                "there. Move it away, or pull elsewhere with --out"
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
        raise TableError(f"{folder} holds something else than a table; pull elsewhere with --out")
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
            f"a pull into {folder} was killed, which kept the former table in {former}; another "
            f"one was begun since. Keep both: move one of them away, and delete {partial}"
        )
    elif former.exists():
        shutil.rmtree(former)  # the new one is there
    (partial / SWAPPING).unlink()


def _fetch(place: Place, manifest: Manifest, name: str, target: Path) -> None:
    """Read one file to a folder, unless an interrupted pull left it there whole."""
    if not (target.exists() and manifest.files[name].matches(target.read_bytes())):
        write_whole(target, _read(place, manifest, name))


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
            f"{folder} holds a later state of {', '.join(later)}; pull that version elsewhere with "
            "--out, or give --replace"
        )
    news, dropped = _news(content, known, str(folder), replace)
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
            f"{former} is in the way of this pull, which moves {folder} there for a moment. Move "
            "it away, or pull elsewhere with --out"
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
