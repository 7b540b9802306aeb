"""Commands that read: devices, networks, and what a table says of an architecture."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import onnx
import typer

from latprof import DISTURBED_EXIT, OptionError
from latprof.cli.options import (
    ArchitectureOption,
    BatchOption,
    BlockOption,
    JsonOption,
    NetworkOption,
    TableOption,
    ThreadsOption,
    network_of,
    runtimes_told,
)
from latprof.cli.show import difference_as_json, print_difference, print_explanation
from latprof.onnx.writer import BLOCK, build
from latprof.profile.doctor import examine
from latprof.runtimes.base import ONNX_RUNTIME, Usage
from latprof.runtimes.cards import gpus
from latprof.runtimes.here import this_device
from lookup_tables.architecture import Architecture
from lookup_tables.model.diff import compare_tables
from lookup_tables.model.latency_model import LatencyModel
from lookup_tables.model.staircase import Staircase
from lookup_tables.network import Network, network_names
from lookup_tables.table.store import LatencyTable


def devices(
    table: Annotated[Path | None, typer.Option(help="Show the device of this table.")] = None,
    threads: ThreadsOption = 1,
    batch: BatchOption = 1,
    runtime: Annotated[str, typer.Option(help=runtimes_told())] = ONNX_RUNTIME,
    json_: JsonOption = False,
) -> None:
    """Show this machine, or the device a table was measured on."""
    usage = Usage(threads=threads, batch=batch, runtime=runtime)
    device = LatencyTable.open(table).device if table else this_device("cpu", usage)
    facts = device.model_dump(exclude_none=True, exclude={"format"})
    if not table:
        facts["gpus"] = [f"{gpu.name} (--device {gpu.short_name})" for gpu in gpus()]
    if json_:
        print(json.dumps(facts, indent=1))
        return
    for name, value in facts.items():
        print(f"{name:18} {value if value != [] else 'none found'}")


def doctor(json_: JsonOption = False) -> None:
    """Check whether this machine can be measured on now, and say what to change.

    Exit code 6: not while this lasts.
    """
    findings = examine()
    if json_:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        for finding in findings:
            advice = f"\n{'':30} → {finding.advice}" if finding.advice else ""
            print(f"{finding.state:9} {finding.what:20} {finding.found}{advice}")
    if any(finding.state == "busy" for finding in findings):
        raise typer.Exit(DISTURBED_EXIT)


def networks(
    network: Annotated[str | None, typer.Option(help="Show one network.")] = None,
    json_: JsonOption = False,
) -> None:
    """List the known networks, or show the groups, blocks and layers of one."""
    if network is None:
        names = network_names()
        print(json.dumps(names) if json_ else "\n".join(names))
        return
    found = Network.load(network)
    if json_:
        print(found.model_dump_json(indent=1, exclude_defaults=True))
        return
    macs = found.macs(found.widths(found.dense))
    print(f"{found.name}: input {'×'.join(map(str, found.input_shape))}, {macs / 1e6:.1f} M MACs")
    for group in found.groups:
        print(f"group {group.name:24} {', '.join(map(str, group.choices))}")
    for block in found.blocks:
        inside = "can go alone" if found.is_plain(block) else ", ".join(block.layers)
        print(f"block {block.name:24} {inside}")
    for layer, spec in found.layer_specs(found.dense):
        print(f"layer {layer.name:24} {spec}")


def predict(
    table: TableOption, network: NetworkOption, architecture: ArchitectureOption,
    json_: JsonOption = False,
) -> None:  # fmt: skip
    """Predict an architecture's latency, with its interval, layer by layer."""
    model = _model(network, table)
    asked = Architecture.load(architecture)
    prediction = model.predict_architectures([asked])
    answer = {
        "latency_ms": float(prediction.latency_s[0]) * 1e3,
        "low_ms": float(prediction.low_s[0]) * 1e3,
        "high_ms": float(prediction.high_s[0]) * 1e3,
        "dense_ms": model.dense_s * 1e3,
        "speedup": model.dense_s / float(prediction.latency_s[0]),
        "interpolated": float(prediction.interpolated[0]),
        "layers": [
            {
                "name": layer.name,
                "latency_ms": layer.seconds * 1e3,
                "interpolated": layer.interpolated,
                "layer": layer.spec.to_json(),
            }
            for layer in model.layers(asked)
        ],
    }
    if json_:
        print(json.dumps(answer, indent=1))
        return
    print(
        f"{answer['latency_ms']:.3f} ms (90 %: {answer['low_ms']:.3f} … {answer['high_ms']:.3f}), "
        f"{answer['speedup']:.2f}× of dense {answer['dense_ms']:.3f} ms, "
        f"{answer['interpolated']:.0%} interpolated"
    )
    for layer in model.layers(asked):
        mark = "  interpolated" if layer.interpolated else ""
        print(f"{layer.seconds * 1e6:9.1f} µs  {layer.name:24} {layer.spec}{mark}")


def steps(
    table: TableOption,
    network: NetworkOption,
    group: Annotated[str | None, typer.Option(help="Show every width of one group.")] = None,
    json_: JsonOption = False,
) -> None:
    """Show in which steps the device takes channels, and the candidate widths of every group."""
    model = _model(network, table)
    loaded, stairs = model.network, Staircase(model)
    found = {kind: step._asdict() for kind, step in model.steps.items()}
    if group is not None:
        if group not in loaded.group:
            raise OptionError(
                f"--group {group!r} is unknown; {loaded.name} has {', '.join(loaded.group)}"
            )
        rows = stairs.steps(loaded.group[group])
        if json_:
            print(json.dumps([asdict(row) for row in rows], indent=1))
            return
        for row in rows:
            better = f"no faster than {row.better}" if row.better else ""
            print(f"{row.width:6} {row.seconds * 1e3:9.3f} ms  {'edge' if row.edge else better}")
        return
    menu = {g.name: list(g.choices) for g in stairs.menu().groups}
    if json_:
        print(json.dumps({"steps": found, "menu": menu}, indent=1))
        return
    for kind, step in found.items():
        print(
            f"{kind:18} blocks of {step['block']} channels; from one block up, all multiples of "
            f"{step['alignment']} run equally well"
        )
    print("candidate widths (right edges of the steps):")
    for name, widths in menu.items():
        print(f"  {name:24} {', '.join(map(str, widths))}")


def explain(
    table: TableOption,
    network: NetworkOption,
    architecture: ArchitectureOption,
    top: Annotated[int, typer.Option(min=1, help="How many layers and groups to show.")] = 8,
    json_: JsonOption = False,
) -> None:
    """Say why an architecture is not faster, and which widths would help."""
    model = _model(network, table)
    asked = Architecture.load(architecture)
    stairs = Staircase(model)
    layers = stairs.layers(asked)
    wider, narrower = stairs.advice(asked)
    now_s = model.latency_s(asked)
    if json_:
        answer = {
            "latency_ms": now_s * 1e3,
            "speedup": model.dense_s / now_s,
            "layers": [
                {
                    "name": layer.name,
                    "latency_ms": layer.seconds * 1e3,
                    "dense_ms": layer.dense_s and layer.dense_s * 1e3,
                    "macs_share": layer.macs_share,
                    "bound_by": layer.binding,
                    "lost_ms": layer.lost_s * 1e3,
                }
                for layer in layers
            ],
            "wider_and_no_slower": [asdict(advice) for advice in wider],
            "narrower_and_faster": [asdict(advice) for advice in narrower],
        }
        print(json.dumps(answer, indent=1))
        return
    print_explanation(model, asked, layers, wider[:top], narrower[:top], top)


def diff(
    first: Annotated[Path, typer.Argument(help="A table's folder.")],
    second: Annotated[Path, typer.Argument(help="The table to compare it with.")],
    network: Annotated[
        str | None,
        typer.Option(help="Only this network, not all of both tables."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many entries to show.")] = 10,
    json_: JsonOption = False,
) -> None:
    """Show what differs between two tables beyond noise. Exit code 5 if anything does."""
    tables = LatencyTable.open(first), LatencyTable.open(second)
    common = sorted(set(tables[0].networks()) & set(tables[1].networks()))
    if not common:
        raise OptionError(f"{first} and {second} hold no network in common")
    named = network
    if network is not None and Path(network).suffix == ".json":
        named = Network.load(network).name
    if named is not None and named not in common:
        raise OptionError(
            f"--network {network} is not in both tables; they share {', '.join(common)}"
        )
    asked = [network] if network else common
    found = {}
    for name in asked:
        loaded = _network_of_either(tables, name)
        if loaded is None:
            print(f"{name}: not compared, its network file is missing", file=sys.stderr)
        else:
            found[loaded.name] = compare_tables(loaded, *tables)
    if not found:
        raise OptionError("nothing was compared: name the network file with --network")
    if json_:
        print(json.dumps({name: difference_as_json(d) for name, d in found.items()}, indent=1))
    else:
        for name, difference in found.items():
            print_difference(name, difference, top)
    if any(difference.changed or difference.whole_differs for difference in found.values()):
        raise typer.Exit(5)


def export(
    network: NetworkOption,
    architecture: ArchitectureOption,
    out: Annotated[Path, typer.Option(help="The ONNX file to write.")],
    batch: BatchOption = 1,
    block: BlockOption = BLOCK,
) -> None:
    """Write an architecture as ONNX with random weights, as it is profiled."""
    found = Network.load(network), Architecture.load(architecture)
    onnx.save(build(*found, batch, block=block), str(out))
    print(out)


def _model(name: str, folder: Path) -> LatencyModel:
    """What a table predicts of a network, by its own rows or those of one for more classes."""
    table, network = LatencyTable.open(folder), network_of(name, folder)
    priced = table.pricing(network)
    if priced.fingerprint != network.fingerprint:
        print(
            f"{folder} has no {network.name}; the predictions are for {priced.name}, the same "
            "network with more classes. They overestimate the last layer's time a little",
            file=sys.stderr,
        )
    return LatencyModel(priced, table)


def _network_of_either(tables: Sequence[LatencyTable], name: str) -> Network | None:
    """The network of that name beside one of the tables' rows, or shipped, or in a file."""
    for table in tables:
        if table.network_path(name).exists():
            return Network.load(table.network_path(name))
    if Path(name).suffix == ".json" or name in network_names():
        return Network.load(name)
    return None
