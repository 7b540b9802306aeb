"""The commands that share and show tables: push, pull, list, verify, merge, convert, card, plot."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from latprof import OptionError
from latprof.cli.options import HOME_HELP, JsonOption, NetworkOption, TableOption, network_beside
from latprof.share.card import drawing, write_card
from latprof.share.foreign import UNITS, convert_jcw
from latprof.share.merge import merge
from latprof.share.place import Place
from latprof.share.pull import pull
from latprof.share.push import push
from latprof.share.versions import Shared, shared
from lookup_tables.errors import NetworkError, TableError
from lookup_tables.network import Network
from lookup_tables.storage.files import only_writer, write_whole
from lookup_tables.storage.manifest import (
    MANIFEST,
    ROWS,
    FileRecord,
    Manifest,
    load_manifest,
    read_sealed,
)
from lookup_tables.table.home import home_of
from lookup_tables.table.store import IDENTITY, LatencyTable

UrlArgument = Annotated[
    str,
    typer.Argument(
        metavar="URL", help="A folder, s3://bucket/tables, https://… (read only), hf://…"
    ),
]
NetworksOption = Annotated[
    list[str] | None, typer.Option("--network", help="Only this network; may be repeated.")
]


def push_command(
    table: Annotated[Path, typer.Argument(help="A table's folder.")],
    url: UrlArgument,
    network: NetworksOption = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Overwrite different rows in the shared place.")
    ] = False,
    name: Annotated[
        str | None,
        typer.Option("--as", help="Name in the shared place. Default: the device's name."),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Share a table in a folder, an S3 bucket or a Hugging Face repository."""
    manifest, news = push(LatencyTable.open(table), Place(url), network or (), replace, name)
    _say(manifest, news, f"{url.rstrip('/')}/{manifest.device}", "pushed", json_)


def pull_command(
    url: UrlArgument,
    device: Annotated[
        str | None, typer.Argument(help="Device name. Not needed if the place has one table.")
    ] = None,
    network: NetworksOption = None,
    version: Annotated[
        int | None, typer.Option(min=1, help="An older version. Default: the newest.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help=HOME_HELP)] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Overwrite different rows in the folder.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Fetch a shared table and verify it. An interrupted pull continues."""
    place = Place(url)
    device = device or _only_device(place)
    folder = out or home_of(device)
    manifest, news = pull(place, device, folder, network or (), version, replace)
    _say(manifest, news, str(folder), "pulled", json_)


def list_command(url: UrlArgument, json_: JsonOption = False) -> None:
    """List the tables of a shared place."""
    tables, problems = shared(Place(url))
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if json_:
        print(json.dumps([_as_json(table) for table in tables], indent=1))
    elif tables:
        _print_tables(tables, url)
    elif not problems:
        print(f"{url} holds no table")
    if problems:
        raise typer.Exit(1)


def _print_tables(tables: list[Shared], url: str) -> None:
    shown = Table(title=f"latency tables in {url}")
    for heading in ("device", "version", "processor", "use", "networks"):
        shown.add_column(heading)
    for table in tables:
        device = table.device
        use = f"{device.precision}, batch {device.batch}, {device.threads} thread(s)"
        networks = ", ".join(table.manifest.networks())
        shown.add_row(
            table.manifest.device, str(table.manifest.version), device.processor, use, networks
        )
    Console().print(shown)


def verify_command(
    table: Annotated[Path, typer.Argument(help="A table's folder.")],
    seal: Annotated[
        bool, typer.Option("--seal", help="Accept the files as they are and write a new manifest.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Read every row and compare every file with the manifest; exit code 1 if any is damaged."""
    found, problems = _sealed_anew(table) if seal else _verified(LatencyTable.open(table))
    if json_:
        print(json.dumps({"networks": found, "problems": problems}, indent=1))
    else:
        _print_verified(found)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if problems:
        raise typer.Exit(1)


def _sealed_anew(folder: Path) -> tuple[list[dict], list[str]]:
    """What `_verified` says of the files as they are; sealed if nothing is wrong with them.

    Where something is, the former manifest stays.
    """
    if not (folder / IDENTITY).is_file():
        raise TableError(f"{folder} is not a table's folder: {IDENTITY} is missing")
    with only_writer(folder), TemporaryDirectory(prefix="latprof-") as place:
        copy = Path(place) / "table"
        copy.mkdir()
        for path in folder.iterdir():
            if path.is_file() and path.name != MANIFEST:
                shutil.copy(path, copy)
        try:
            found, problems = _verified(LatencyTable.open(copy))
        except TableError as error:
            raise TableError(str(error).replace(str(copy), str(folder))) from None
        if problems:
            return found, [text.replace(str(copy), str(folder)) for text in problems]
        table = LatencyTable.open(copy)
        finished = [network["network"] for network in found if network["finished"]]
        names = {name for network in finished for name in table.files(network)}
        if names:
            records = {name: FileRecord.of(name, (copy / name).read_bytes()) for name in names}
            now = Manifest(device=table.device.name, version=_version(folder), files=records)
            write_whole(folder / MANIFEST, now.to_json())
        return _verified(LatencyTable.open(folder))


def _version(folder: Path) -> int:
    """That of the manifest, 0 where there is none or it is damaged."""
    try:
        former = load_manifest(folder)
    except TableError:
        return 0
    return former.version if former else 0


def _verified(table: LatencyTable) -> tuple[list[dict], list[str]]:
    """(what each network holds, everything that is wrong)."""
    manifest = load_manifest(table.folder)
    sealed = manifest.files if manifest else {}
    problems, found = {}, []  # one message may come from a file and from its rows
    for name in sealed:
        try:
            read_sealed(table.folder / name)
        except TableError as error:
            problems[str(error)] = True
    for network in table.networks():
        try:
            rows, judged = table.rows(network), table.validation(network)
            _require_plausible(table, network)
        except TableError as error:
            problems[str(error)] = True
            continue
        facts = {"network": network, "rows": len(rows), "sealed": network + ROWS in sealed}
        told = {"rmspe": judged.rmspe, "measured_at": judged.measured_at} if judged else {}
        found.append(facts | {"finished": judged is not None} | told)
    return found, [*problems]


def _require_plausible(table: LatencyTable, name: str) -> None:
    """Raise TableError for a run that cannot be one of its network, where that is known."""
    try:
        network = table.load_network(name)
    except NetworkError:  # neither beside its rows nor shipped any more
        return
    plan = table.plan(name)
    if plan is not None and plan.fingerprint == network.fingerprint:
        table.runs(network)


def _print_verified(found: list[dict]) -> None:
    for one in found:
        state = "its profile is not finished"
        if one["finished"]:
            seal = "as sealed" if one["sealed"] else "not sealed (seal it with --seal)"
            state = f"error {one['rmspe']:.1%} at candidate widths, {seal}"
        print(f"{one['network']:24} {one['rows']} rows, {state}")


def merge_command(
    first: Annotated[Path, typer.Argument(help="A table's folder.")],
    second: Annotated[Path, typer.Argument(help="Another table of the same device.")],
    out: Annotated[Path, typer.Option(help="A new folder.")],
) -> None:
    """Join two tables of one device."""
    merged = merge(LatencyTable.open(first), LatencyTable.open(second), out)
    print(f"{out}: {', '.join(merged.networks())}")


def convert_command(
    file: Annotated[
        Path,
        typer.Argument(
            help="JCW's array as .npy: convolutions × output widths × input widths × densities."
        ),
    ],
    network: NetworkOption,
    unit: Annotated[str, typer.Option(help=f"Of its values: {', '.join(UNITS)}. It has none.")],
    out: Annotated[Path, typer.Option(help="A new folder.")],
    json_: JsonOption = False,
) -> None:
    """Make a table of one that JCW published, so that pruning can read it; its gaps are named."""
    if unit not in UNITS:
        raise OptionError(f"--unit {unit!r}: expected one of {', '.join(UNITS)}")
    found = convert_jcw(file, Network.load(network), out, unit)
    facts = {"dense_ms": found.dense_s * 1e3, "rmspe": found.rmspe, "gaps": found.gaps}
    if json_:
        print(json.dumps(facts, indent=1))
        return
    print(f"{out}: the dense network takes {facts['dense_ms']:.4g} ms; the table answers to within "
          f"{found.rmspe:.1%} of the array")  # fmt: skip
    print(f"without a time in the array, and free in the table: {', '.join(found.gaps)}")
    print("density 1 is the array's sparse kernel with all weights: speedups are over that one")


def card_command(
    table: Annotated[Path, typer.Argument(help="A table's folder.")],
    pictures: Annotated[bool, typer.Option(help="Draw the staircases too.")] = True,
) -> None:
    """Write a README for a table's folder: device, error, repeatability, staircases, densities."""
    print(write_card(LatencyTable.open(table), pictures))


def plot_command(
    table: TableOption,
    network: NetworkOption,
    out: Annotated[Path, typer.Option(help="A file ending in .svg, .png or .pdf.")],
) -> None:
    """Draw a network's staircase, and predicted against measured times."""
    drawing()(Network.load(network_beside(table, network)), LatencyTable.open(table), out)
    print(out)


def _only_device(place: Place) -> str:
    names = [table.manifest.device for table in shared(place)[0]]
    if len(names) != 1:
        if not names:
            raise OptionError(
                f"{place.url} holds no table. Check the address, or put one there: latprof push"
            )
        raise OptionError(f"{place.url} holds {', '.join(names)}: say which device")
    return names[0]


def _say(manifest: Manifest, news: list[str], where: str, done: str, json_: bool) -> None:
    if json_:
        answer = {"device": manifest.device, "version": manifest.version, "where": where}
        print(json.dumps(answer | {"files": news, "networks": manifest.networks()}, indent=1))
        return
    networks = ", ".join(manifest.networks())
    what = f"{done} {', '.join(news)}" if news else "nothing new"
    version = f"version {manifest.version}" if manifest.version else "never pushed"
    print(f"{where}, {version} ({networks}): {what}")


def _as_json(table: Shared) -> dict:
    return {
        "device": table.device.model_dump(exclude_none=True),
        "version": table.manifest.version,
        "networks": table.manifest.networks(),
        "bytes": sum(record.bytes for record in table.manifest.files.values()),
    }
