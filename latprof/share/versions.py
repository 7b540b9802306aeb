"""What a shared place holds: devices, and numbered versions of each one's table.

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

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from latprof import PlaceError
from latprof.share.place import Place
from lookup_tables.device import NAME, Device
from lookup_tables.errors import DeviceMismatch, NewerFormat, TableError
from lookup_tables.storage.manifest import (
    MANIFEST,
    ROWS,
    FileRecord,
    Manifest,
    network_of,
    verify,
)
from lookup_tables.table.store import IDENTITY

INDEX = "index.json"  # the devices, for places that cannot list their folders
CLAIMS = 20  # writers that may come in between before one gives up


@dataclass(frozen=True, slots=True)
class Shared:
    """One device's table in a place."""

    device: Device
    manifest: Manifest


def shared(place: Place) -> tuple[list[Shared], list[str]]:
    """Every table of a place; and what is wrong with those that cannot be read."""
    found, problems = [], []
    for name in _devices(place):
        data = place.read(f"{name}/{MANIFEST}")
        if data is None:
            continue
        try:
            manifest = _parse(data, name, place.where(f"{name}/{MANIFEST}"))
            found.append(Shared(device_of(place, manifest), manifest))
        except TableError as error:
            problems.append(str(error))
    return found, problems


def compared(
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
                f"{rows}: {where} holds different rows of this network. Keep both under two "
                "names, join them with `latprof merge`, or give --replace to take the new ones"
            )
    return news, dropped


def _require_alike(differing: set[str], where: str) -> None:
    """Raise TableError where files beside the same rows differ: nobody knows which is right."""
    if differing:
        raise TableError(
            f"{where} has the same rows but a different {', '.join(sorted(differing))}; overwrite "
            "it with --replace"
        )


def part_of(networks: Sequence[str], manifest: Manifest, where: str) -> Manifest:
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


def require_same_device(ours: Device, theirs: Device, where: str) -> None:
    """Raise DeviceMismatch unless both tables are of one device."""
    try:
        ours.require(theirs, f"the table in {where}")
    except DeviceMismatch as error:
        raise DeviceMismatch(f"{error}; or push it under another name with --as NAME") from None


def newest_version(place: Place, device: str) -> tuple[Manifest | None, int]:
    """The newest whole version, and the number of the next; raises TableError for a newer format.

    A version file that is not whole was left by a writer that died, on a file system that does
    not create files whole, or was damaged since; it is passed over.
    """
    numbers = sorted(
        int(name[: -len(".json")])
        for name in place.names(f"{device}/versions")
        if name.endswith(".json") and name[: -len(".json")].isdigit()
    )
    paths = [version_path(device, number) for number in reversed(numbers)]
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


def make_current(place: Place, manifest: Manifest) -> None:
    """Let readers see a version, or the newest if others have claimed further ones since.

    Every writer's last act is to look: who overwrote a newer version with an older one mends it.
    """
    path = f"{manifest.device}/{MANIFEST}"
    for _ in range(CLAIMS):
        found, _ = newest_version(place, manifest.device)
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


def read_manifest(place: Place, device: str, version: int | None) -> Manifest:
    """What is current for a device, or was as a version; raises TableError or PlaceError."""
    path = f"{device}/{MANIFEST}" if version is None else version_path(device, version)
    data = place.read(path)
    if data is None and version is not None and (now := place.read(f"{device}/{MANIFEST}")):
        current = Manifest.parse(now, place.where(f"{device}/{MANIFEST}")).version
        raise TableError(f"{place.where(path)} does not exist; the current version is {current}")
    if data is None:
        tables = [name for name in _devices(place) if place.read(f"{name}/{MANIFEST}")]
        known = ", ".join(tables) or "none"
        raise TableError(f"{place.where(path)} does not exist. Devices there: {known}")
    return _parse(data, device, place.where(path))


def _parse(data: bytes, device: str, where: str) -> Manifest:
    """A place's manifest; raises TableError unless it is of this device and lists a table's files.

    Whoever can write a place must not be able to write anything else on a reader's machine.
    """
    found = Manifest.parse(data, where)
    if found.device != device or IDENTITY not in found.files:
        raise TableError(f"{where} belongs to {found.device}, not to {device}")
    strange = [name for name in found.files if name != IDENTITY and network_of(name) is None]
    if strange:
        raise TableError(f"{where} lists {strange[0]}, which is not a table's file")
    return found


def require_name(name: str, place: Place) -> None:
    """Raise PlaceError for what is no name of a device."""
    if not NAME.fullmatch(name):
        raise PlaceError(
            f"{name!r} cannot be a table's name in {place.url}: use small letters, digits, '_', "
            "'-' and '.', a letter or digit first"
        )


def version_path(device: str, number: int) -> str:
    """Where a version's manifest lies."""
    return f"{device}/versions/{number:06}.json"


def device_of(place: Place, manifest: Manifest) -> Device:
    """The device that a manifest's table was measured on."""
    return Device.parse(read_file(place, manifest, IDENTITY), place.where(manifest.device))


def read_file(place: Place, manifest: Manifest, name: str) -> bytes:
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
