"""The commands of the block-sparse operators: info, build, check, bench, convert."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx
import typer
from google.protobuf.message import DecodeError, EncodeError
from onnx.checker import ValidationError
from rich.console import Console
from rich.table import Table

from latprof import OptionError
from latprof.cli.options import BlockOption, JsonOption, ThreadsOption, console
from latprof.kernels import BLOCKS, DOMAIN, VERSION, CannotConvert, KernelsMissing
from latprof.kernels import build as builds
from latprof.kernels import check as checks
from latprof.kernels.check_quantised import is_exact, random_case
from latprof.kernels.convert import convert, densities
from latprof.kernels.models import SHAPES, Shape, chain
from latprof.profile.compare import compare_files
from latprof.runtimes.base import Usage
from latprof.runtimes.here import this_device
from lookup_tables.device import Device
from lookup_tables.storage.files import write_whole


def build_kernels_app() -> typer.Typer:
    """`latprof kernels …`."""
    app = typer.Typer(no_args_is_help=True)
    for command in (info, build, check, bench):
        app.command()(command)
    app.command("convert")(convert_command)
    return app


def info(json_: JsonOption = False) -> None:
    """Say whether the kernels are built on this machine, and for which instructions."""
    told: dict[str, object] = {"version": VERSION, "domain": DOMAIN, "library": None}
    try:
        path = builds.library(build_missing=False)
        found = builds.about(path)
        told |= {"library": str(path), "instructions": found.instructions,
                 "vector_bytes": found.vector_bytes, "flags": found.flags}  # fmt: skip
    except KernelsMissing as error:
        told["missing"] = str(error)
    if json_:
        print(json.dumps(told, indent=1))
        return
    for key, value in told.items():
        if value is not None:
            print(f"{key:<13} {value}")


def build(
    out: Annotated[
        Path | None, typer.Option(help="Where to write the library. Default: the user's cache.")
    ] = None,
    march: Annotated[
        str, typer.Option(help="Which processor to build for, as the compiler names it.")
    ] = "native",
) -> None:
    """Compile the kernels: for this machine, or ahead of time for another one."""
    if out is None and march != "native":
        raise OptionError("--march for another processor needs --out FILE")
    if out is None:
        print(builds.library())
        return
    builds.build(out, (f"-march={march}",))
    print(out)


def check(
    layers: Annotated[int, typer.Option(min=1, help="How many random layers to run.")] = 200,
    threads: ThreadsOption = 1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random layers.")] = 0,
) -> None:
    """Run random layers with the kernels and without: do they compute the same?

    In INT8, against plain integers: to the last bit.
    """
    worst = 0.0
    for number in range(layers):
        rng = np.random.default_rng([seed, number])
        case = checks.random_case(rng)
        off = checks.difference(case, rng, threads)
        if not off < checks.MOST_OFF:
            raise CannotConvert(
                f"layer {number} of seed {seed} is off by {off:.1e} of its largest output: "
                f"{case.weight.shape} in blocks of {case.block}. Please report it"
            )
        worst = max(worst, off)
    for number in range(layers):
        rng = np.random.default_rng([seed, number])
        quantised = random_case(rng)
        if not is_exact(quantised, rng, threads):
            raise CannotConvert(
                f"layer {number} of seed {seed} in INT8 is not exact: {quantised.weight.shape}. "
                "Please report it"
            )
    print(f"{layers} layers agree; the largest difference is {worst:.1e} of the largest output")
    print(f"{layers} layers in INT8 agree to the last bit")


def bench(
    density: Annotated[
        list[float] | None, typer.Option(help="Shares of the weights kept; may be repeated.")
    ] = None,
    channels: Annotated[
        list[int] | None, typer.Option(help="Only layers with so many channels; may be repeated.")
    ] = None,
    block: BlockOption = BLOCKS[0],
    threads: ThreadsOption = 1,
    json_: JsonOption = False,
) -> None:
    """Time chains of layers against the dense ones in plain ONNX Runtime, in pairs."""
    wanted = density or [1.0, 0.5, 0.2, 0.1]
    if not all(0 < each <= 1 for each in wanted):
        raise OptionError("--density: expected shares of the weights, more than 0 and at most 1")
    shapes = [shape for shape in SHAPES if not channels or shape.channels in channels]
    if not shapes:
        known = sorted({shape.channels for shape in SHAPES})
        raise OptionError(f"--channels: expected one of {', '.join(map(str, known))}")
    device = this_device("cpu", Usage(threads))
    rows = []
    with console.status("") as status:
        for shape in shapes:
            status.update(f"{shape}")
            rows.append(
                {"layer": str(shape)}
                | {f"{each:g}": speedup(shape, each, block, device) for each in wanted}
            )
    if json_:
        print(json.dumps(rows, indent=1))
        return
    table = Table("layers", *(f"density {each:g}" for each in wanted))
    for row in rows:
        layer, *found = row.values()
        table.add_row(str(layer), *(f"{each:.2f}×" for each in found))
    Console().print(table)


def speedup(shape: Shape, density: float, block: int, device: Device) -> float:
    """How many times faster a chain of sparse layers is than the dense one without the kernels."""
    with tempfile.TemporaryDirectory(prefix="latprof-") as folder:
        dense, sparse = Path(folder) / "dense.onnx", Path(folder) / "sparse.onnx"
        onnx.save(chain(shape), str(dense))
        onnx.save(convert(chain(shape, density, block), block), str(sparse))
        return compare_files(dense, sparse, device).speedup


def convert_command(
    model: Annotated[Path, typer.Argument(help="An ONNX file with zeros among its weights.")],
    out: Annotated[Path, typer.Option(help="The file to write.")],
    block: BlockOption = BLOCKS[0],
    plain: Annotated[
        list[str] | None, typer.Option(help="A node to leave as it is; may be repeated.")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Rewrite an ONNX file so that it uses the kernels; weights of 0 are left out."""
    try:
        loaded = onnx.load(str(model))
    except FileNotFoundError:
        raise CannotConvert(f"{model}: no such ONNX file, or its weights are missing") from None
    except DecodeError:
        raise CannotConvert(f"{model}: not a readable ONNX file") from None
    except (ValidationError, ValueError) as error:  # weights beside it that are not there
        raise CannotConvert(f"{model}: its weights are missing or damaged: {error}") from None
    try:
        made = convert(loaded, block, plain or ()).SerializeToString()
    except CannotConvert as error:
        raise CannotConvert(f"{model}: {error}") from None
    except (EncodeError, ValueError) as error:
        raise CannotConvert(f"{model}: too large for one file of 2 GB: {error}") from None
    write_whole(out, made)
    made = onnx.ModelProto.FromString(made)
    found = dict(densities(made))
    left = [node.op_type for node in made.graph.node if node.domain != DOMAIN]
    if json_:
        print(json.dumps({"densities": found, "plain": left}, indent=1))
        return
    mean = float(np.mean([*found.values()])) if found else 1.0
    print(f"{out}: {len(found)} convolutions, {mean:.0%} of their taps kept on average")
    if left:
        print(f"plain nodes: {', '.join(sorted(set(left)))}")
