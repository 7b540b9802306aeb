"""The commands that share and show tables: push, pull, list, verify, merge, card, plot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from latprof.card import write_card
from latprof.errors import OptionError
from latprof.merge import merge
from latprof.options import JsonOption, NetworkOption, TableOption
from latprof.place import Place
from latprof.share import Shared, pull, push, shared
from lookup_tables.manifest import Manifest, load_manifest
from lookup_tables.network import Network
from lookup_tables.table import DATA, LatencyTable

UrlArgument = Annotated[
    str,
    typer.Argument(
        metavar="URL", help="A folder, s3://bucket/tables, https://… (to read from), hf://…"
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
        bool, typer.Option("--replace", help="Take our rows where the place has others.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Share a table: a new version of it in a folder, an S3 bucket, a Hugging Face repository."""
    manifest, news = push(LatencyTable.open(table), Place(url), network or (), replace)
    _say(manifest, news, f"{url.rstrip('/')}/{manifest.device}", "pushed", json_)


def pull_command(
    url: UrlArgument,
    device: Annotated[
        str | None, typer.Argument(help="Whose table; may be left out where there is only one.")
    ] = None,
    network: NetworksOption = None,
    version: Annotated[int | None, typer.Option(min=1, help="Not the current one.")] = None,
    out: Annotated[Path | None, typer.Option(help="The table's folder.")] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Take the place's rows where the folder has others.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Fetch a shared table, verified before it is there; an interrupted pull continues."""
    place = Place(url)
    device = device or _only_device(place)
    folder = out or DATA / device
    manifest, news = pull(place, device, folder, network or (), version, replace)
    _say(manifest, news, str(folder), "pulled", json_)


def list_command(url: UrlArgument, json_: JsonOption = False) -> None:
    """The tables of a shared place: device, networks, version."""
    tables = shared(Place(url))
    if json_:
        print(json.dumps([_as_json(table) for table in tables], indent=1))
        return
    shown = Table(title=f"latency tables in {url}")
    for heading in ("device", "version", "processor", "use", "networks"):
        shown.add_column(heading)
    for table in tables:
        device = table.device
        use = f"{device.precision}, batch {device.batch}, {device.threads} thread(s)"
        networks = ", ".join(table.manifest.networks())
        shown.add_row(device.name, str(table.manifest.version), device.processor, use, networks)
    Console().print(shown)


def verify_command(
    table: Annotated[Path, typer.Argument(help="A table's folder.")],
    seal: Annotated[
        bool, typer.Option("--seal", help="Write the manifest of a table that has none yet.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Read every row and compare it with the manifest; exit code 1 names what is damaged."""
    opened = LatencyTable.open(table)
    found = []
    for network in opened.networks():
        rows = opened.rows(network)
        judged = opened.validation(network)
        if seal and judged:
            opened.seal(network)
        manifest = load_manifest(table)
        sealed = manifest is not None and network in manifest.networks()
        error = {"rmspe": judged.rmspe, "measured_at": judged.measured_at} if judged else {}
        found.append({"network": network, "rows": len(rows), "sealed": sealed} | error)
    if json_:
        print(json.dumps(found, indent=1))
        return
    for one in found:
        error = f"error {one['rmspe']:.1%} on the menu" if "rmspe" in one else "not finished"
        state = "as sealed" if one["sealed"] else "not sealed (--seal does)"
        print(f"{one['network']:24} {one['rows']} rows, {error}, {state}")


def merge_command(
    first: Annotated[Path, typer.Argument(help="A table's folder.")],
    second: Annotated[Path, typer.Argument(help="Another of the same device.")],
    out: Annotated[Path, typer.Option(help="A new folder.")],
) -> None:
    """Two tables of one device become one; tables of two devices are refused."""
    merged = merge(LatencyTable.open(first), LatencyTable.open(second), out)
    print(f"{out}: {', '.join(merged.networks())}")


def card_command(
    table: Annotated[Path, typer.Argument(help="A table's folder.")],
    pictures: Annotated[bool, typer.Option(help="Draw its staircases too.")] = True,
) -> None:
    """Write a table's card into its folder: device, error, repeatability, staircases."""
    print(write_card(LatencyTable.open(table), pictures))


def plot_command(
    table: TableOption,
    network: NetworkOption,
    out: Annotated[Path, typer.Option(help="A file ending in .svg, .png or .pdf.")],
) -> None:
    """Draw a network's staircase, and predicted against measured times."""
    from latprof.plot import plot  # needs matplotlib, which only pictures do

    plot(Network.load(network), LatencyTable.open(table), out)
    print(out)


def _only_device(place: Place) -> str:
    names = [table.device.name for table in shared(place)]
    if len(names) != 1:
        raise OptionError(f"{place.url} holds {', '.join(names) or 'no table'}: say which device")
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
