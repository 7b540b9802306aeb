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

from latprof.errors import PlaceError
from latprof.place import Place
from lookup_tables.device import NAME, Device
from lookup_tables.errors import TableError
from lookup_tables.files import write_whole
from lookup_tables.manifest import (
    MANIFEST,
    FileRecord,
    Manifest,
    grows,
    network_of,
    seal,
    unseal,
    verify,
)
from lookup_tables.table import IDENTITY, LatencyTable

INDEX = "index.json"  # the devices, for places that cannot list their folders
CLAIMS = 20  # writers that may come in between before one gives up


@dataclass(frozen=True, slots=True)
class Shared:
    """One device's table in a place."""

    device: Device
    manifest: Manifest


def push(
    table: LatencyTable, place: Place, networks: Sequence[str] = (), replace: bool = False
) -> tuple[Manifest, list[str]]:
    """Share a table's networks; returns what is current now and which files came with it.

    Networks that only the place has are kept. Raises TableError for an unfinished network, and
    where the place has other rows of the same one (`replace` takes ours); DeviceMismatch where
    the place's table of that name is another device's.
    """
    name = table.device.name
    ours = _content(table, networks)
    for _ in range(CLAIMS):
        current, number = _newest(place, name)
        if current:
            theirs = _device(place, current)
            table.device.require(theirs, f"the table in {place.where(name)}", writing=True)
        news = _news(ours, current.files if current else {}, place.where(name), replace)
        if current and not news:
            _make_current(place, current)
            return current, []
        claimed = _claim(place, name, number, current.files if current else {}, news)
        if claimed:
            _make_current(place, claimed)
            return claimed, sorted(news)
    raise PlaceError(f"{place.where(name)}: others keep writing it; try again later")


def pull(
    place: Place,
    device: str,
    folder: Path,
    networks: Sequence[str] = (),
    version: int | None = None,
    replace: bool = False,
) -> tuple[Manifest, list[str]]:
    """Fetch a table into a folder, verified before it is there; resumes what was interrupted.

    Returns what was asked for and which files the folder did not have. What else it holds of that
    very device is kept. Raises TableError where a file is not what the manifest says, and where
    the folder has other rows of the same network (`replace` takes the place's).
    """
    asked = _of(networks, _manifest(place, device, version), place.where(device))
    partial = folder.with_name(folder.name + ".partial")
    partial.mkdir(parents=True, exist_ok=True)
    for name in asked.files:
        _fetch(place, asked, name, partial / name)
    beside = {name: r.model_copy(update={"at": None}) for name, r in asked.files.items()}
    write_whole(partial / MANIFEST, asked.model_copy(update={"files": beside}).to_json())
    _require_readable(partial)
    if (folder / IDENTITY).exists():
        return asked, _move_in(partial, folder, replace)
    if folder.exists() and any(folder.iterdir()):
        raise TableError(f"{folder} holds something else than a table; pull elsewhere with --out")
    if folder.exists():
        folder.rmdir()
    os.replace(partial, folder)
    return asked, sorted(asked.files)


def shared(place: Place) -> list[Shared]:
    """Every table of a place."""
    found = []
    for name in _devices(place):
        data = place.read(f"{name}/{MANIFEST}")
        if data is not None:
            manifest = Manifest.parse(data, place.where(f"{name}/{MANIFEST}"))
            found.append(Shared(_device(place, manifest), manifest))
    return found


# -- what is to be shared ----------------------------------------------------------------------


def _content(table: LatencyTable, networks: Sequence[str]) -> dict[str, bytes]:
    """File name → content of a table's networks, each read to its end and sealed."""
    names = {}
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
    return {name: (table.folder / name).read_bytes() for name in names}


def _news(
    ours: Mapping[str, bytes], theirs: Mapping[str, FileRecord], where: str, replace: bool
) -> dict[str, bytes]:
    """Those of our files that the other side lacks or has an earlier state of."""
    rows = {name: data for name, data in ours.items() if grows(name)}
    behind = {
        Path(name).stem
        for name, data in rows.items()
        if name in theirs and theirs[name].continues(data)
    }
    news = {}
    for name, data in ours.items():
        known = theirs.get(name)
        if known is None:
            news[name] = data
        elif known.matches(data) or name == IDENTITY or network_of(name) in behind:
            continue
        elif grows(name) and not known.begins(data) and not replace:
            raise TableError(
                f"{name}: {where} holds other rows of this network. Keep both under two names, "
                "join them with `latprof merge`, or give --replace to take the new ones"
            )
        else:
            news[name] = data
    return news


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


def _newest(place: Place, device: str) -> tuple[Manifest | None, int]:
    """The newest whole version, and the number of the next.

    A version file that is not whole was left by a writer that died, on a file system that does
    not create files whole; it is passed over.
    """
    numbers = sorted(
        int(name[: -len(".json")])
        for name in place.names(f"{device}/versions")
        if name.endswith(".json") and name[: -len(".json")].isdigit()
    )
    for number in reversed(numbers):
        path = _version_path(device, number)
        try:
            return Manifest.parse(place.read(path) or b"", path), numbers[-1] + 1
        except TableError:
            continue
    data = place.read(f"{device}/{MANIFEST}")
    if data is None:
        return None, (numbers or [0])[-1] + 1
    current = Manifest.parse(data, place.where(f"{device}/{MANIFEST}"))
    return current, max(current.version, *numbers, 0) + 1


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
    """Let readers see a version, or the newest if others have claimed further ones since."""
    path = f"{manifest.device}/{MANIFEST}"
    if place.read(path) != manifest.to_json().encode():
        place.write(path, manifest.to_json().encode())
    newest, _ = _newest(place, manifest.device)
    if newest and newest.version > manifest.version:
        place.write(path, newest.to_json().encode())
    index = json.dumps({"format": 1, "devices": _devices(place)}).encode()
    if place.read(INDEX) != index:
        place.write(INDEX, index)


def _devices(place: Place) -> list[str]:
    """Names of what may be tables: a place that cannot be listed goes by its index."""
    try:
        indexed = json.loads(place.read(INDEX) or "{}").get("devices", [])
    except (ValueError, AttributeError):
        indexed = []  # damaged; the next push writes it anew
    names = {*indexed, *place.names()} - {INDEX}
    return sorted(name for name in names if NAME.fullmatch(name))


def _manifest(place: Place, device: str, version: int | None) -> Manifest:
    path = f"{device}/{MANIFEST}" if version is None else _version_path(device, version)
    data = place.read(path)
    if data is None:
        known = ", ".join(_devices(place)) or "none"
        raise TableError(f"{place.where(path)}: there is none. Devices there: {known}")
    found = Manifest.parse(data, place.where(path))
    if found.device != device or IDENTITY not in found.files:
        raise TableError(f"{place.where(path)} is of {found.device}, not of {device}")
    return found


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


def _fetch(place: Place, manifest: Manifest, name: str, target: Path) -> None:
    """Read one file to a folder, unless an interrupted pull left it there whole."""
    if not (target.exists() and manifest.files[name].matches(target.read_bytes())):
        write_whole(target, _read(place, manifest, name))


def _require_readable(folder: Path) -> None:
    """Every row parsed: what was pushed broken does not arrive either."""
    try:
        table = LatencyTable.open(folder)
        for network in table.networks():
            table.rows(network)
    except TableError:
        shutil.rmtree(folder)
        raise


def _move_in(partial: Path, folder: Path, replace: bool) -> list[str]:
    """Add what was pulled to a table that is there already; returns the files that changed."""
    table, pulled = LatencyTable.open(folder), LatencyTable.open(partial)
    table.device.require(pulled.device, f"what was pulled into {partial}", writing=True)
    content = {path.name: path.read_bytes() for path in partial.iterdir() if path.name != MANIFEST}
    known = {
        name: FileRecord.of(name, (folder / name).read_bytes())
        for name in content
        if (folder / name).exists()
    }
    news = sorted(_news(content, known, str(folder), replace))
    for name in news:
        unseal(folder, name)
        os.replace(partial / name, folder / name)
    seal(folder, table.device.name, news)
    shutil.rmtree(partial)
    return news
