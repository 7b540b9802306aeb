"""The block-sparse kernels, layer by layer: rates, and whether time follows what is kept.

    python -m benchmarks.kernels [--block 16 …] [--instructions native …] [--threads 1]

Chains of equal convolutions, each against the dense chain in plain ONNX Runtime, in pairs
(`latprof compare`'s timing). `--instructions` names what the kernels are built for: native, or
x86-64-v3 (AVX2); ONNX Runtime itself always uses what the processor has. It can be interrupted:
what the result file holds is not measured again.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Annotated

import onnx
import typer

from benchmarks.results import RESULTS, save
from latprof.kernels import VERSION, build
from latprof.kernels.convert import convert
from latprof.kernels.models import SHAPES, Shape, chain, length
from latprof.profile.compare import compare_files
from latprof.runtimes.base import Usage
from latprof.runtimes.here import this_device
from lookup_tables.device import Device

DENSITIES = (1.0, 0.7, 0.5, 0.3, 0.2, 0.1)
RESULT = "kernels"
PLACE = Path("runs/kernels")


def main(
    block: Annotated[list[int] | None, typer.Option()] = None,
    instructions: Annotated[list[str] | None, typer.Option()] = None,
    threads: int = 1,
) -> None:
    path = RESULTS / f"{RESULT}.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    have = {(r["layer"], r["block"], r["built_for"], r["threads"], r["density"]) for r in rows}
    device = this_device("cpu", Usage(threads))
    for built_for in instructions or ["native"]:
        os.environ[build.BUILT_ELSEWHERE] = str(_library(built_for))
        for size in block or [16]:
            for shape in SHAPES:
                for density in DENSITIES:
                    if (str(shape), size, built_for, threads, density) in have:
                        continue
                    row = {"layer": str(shape), "channels": shape.channels, "size": shape.size,
                           "kernel": shape.kernel, "block": size, "built_for": built_for,
                           "threads": threads, "density": density}  # fmt: skip
                    rows.append(row | timed(shape, density, size, device))
                    print(json.dumps(rows[-1]), flush=True)
                    save(RESULT, {"kernels": VERSION, "device": device.name, "rows": rows})
    print(path)


def timed(shape: Shape, density: float, block: int, device: Device) -> dict[str, float]:
    """The speedup over the dense chain, and how many multiply-adds of kept weights a second."""
    with tempfile.TemporaryDirectory(prefix="latprof-") as folder:
        dense, sparse = Path(folder) / "dense.onnx", Path(folder) / "sparse.onnx"
        onnx.save(chain(shape), str(dense))
        onnx.save(convert(chain(shape, density, block), block), str(sparse))
        found = compare_files(dense, sparse, device)
    macs = shape.macs * length(shape)
    return {
        "dense_us": found.dense_s * 1e6 / length(shape),
        "sparse_us": found.latency_s * 1e6 / length(shape),
        "speedup": found.speedup,
        "low": found.speedup_low,
        "high": found.speedup_high,
        "dense_gflops": 2e-9 * macs / found.dense_s,
        "kept_gflops": 2e-9 * macs * density / found.latency_s,
    }


def _library(built_for: str) -> Path:
    """The kernels built for these instructions."""
    os.environ.pop(build.BUILT_ELSEWHERE, None)
    if built_for == "native":
        return build.library()
    path = (PLACE / f"{built_for}.so").resolve()
    if not path.exists():
        build.build(path, (f"-march={built_for}",))
    return path


if __name__ == "__main__":
    typer.run(main)
