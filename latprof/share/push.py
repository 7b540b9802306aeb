"""Push: a table becomes the next version in a shared place; nothing of others is lost."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from latprof import PlaceError
from latprof.share.place import Place
from latprof.share.versions import (
    CLAIMS,
    compared,
    device_of,
    make_current,
    newest_version,
    require_name,
    require_same_device,
    version_path,
)
from lookup_tables.errors import TableError
from lookup_tables.storage.files import only_writer
from lookup_tables.storage.manifest import FileRecord, Manifest, read_sealed
from lookup_tables.table.store import IDENTITY, LatencyTable


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
    require_name(name, place)
    with only_writer(table.folder):  # its manifest may be written anew
        ours = _content(table, networks)
    for _ in range(CLAIMS):
        current, number = newest_version(place, name)
        theirs = _usable(place, current, ours) if current else {}
        if current and IDENTITY in theirs:
            require_same_device(table.device, device_of(place, current), place.where(name))
        news, dropped = compared(ours, theirs, place.where(name), replace)
        if current and not news:
            make_current(place, current)
            return current, []
        kept = {file: record for file, record in theirs.items() if file not in dropped}
        claimed = _claim(place, name, number, kept, news)
        if claimed:
            make_current(place, claimed)
            return claimed, sorted(news)
    raise PlaceError(f"{place.where(name)}: other processes keep writing to it; try again later")


def _content(table: LatencyTable, networks: Sequence[str]) -> dict[str, bytes]:
    """File name → content of a table's networks, each read to its end and sealed."""
    names: dict[str, None] = {}
    for network in networks or table.networks():
        table.rows(network)
        if table.validation(network) is None:
            raise TableError(
                f"{table.path(network)}: its profile is not finished, so its error is unknown. "
                f"Finish it with: latprof profile --network {network} --out {table.folder}, or "
                "name the networks to push with --network"
            )
        table.seal(network)
        names |= dict.fromkeys(table.files(network))
    if not names:
        raise TableError(f"{table.folder} holds no network yet: nothing to push")
    return {name: read_sealed(table.folder / name) for name in names}


def _usable(place: Place, manifest: Manifest, ours: Mapping[str, bytes]) -> dict[str, FileRecord]:
    """The files of a place, but for those that are damaged there and that we have whole."""

    def is_lost(name: str, record: FileRecord) -> bool:
        if name not in ours or not record.matches(ours[name]):
            return False
        data = place.read(f"{manifest.device}/{record.at or name}")
        return data is None or not record.begins(data)

    return {name: r for name, r in manifest.files.items() if not is_lost(name, r)}


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
    return manifest if place.create(version_path(device, number), text) else None
