"""Whole networks at one density in all sparse layers, against the dense ones in ONNX Runtime.

    python -m benchmarks.sparse_networks [--threads 1] [--block 16] [--precision fp32] [NETWORK …]

Random masks: nothing is said of accuracy. Pairs as `latprof compare` takes them. In INT8 the dense
network is the quantised one, and the dense one in FP32 is compared as well. It can be interrupted:
what the result file holds is not measured again.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated

import onnx
import typer

from benchmarks.results import RESULTS, save
from latprof.kernels import VERSION
from latprof.kernels.convert import convert
from latprof.onnx.writer import build
from latprof.profile.compare import compare_files
from latprof.runtimes.base import Usage
from latprof.runtimes.here import this_device
from lookup_tables.architecture import Architecture
from lookup_tables.device import Device
from lookup_tables.network import Network

NETWORKS = ["resnet56", "vgg16_32", "resnet18", "mobilenet_v1"]
DENSITIES = (1.0, 0.7, 0.5, 0.3, 0.2, 0.1)
RESULT = "sparse_networks"


def main(
    networks: Annotated[list[str] | None, typer.Argument()] = None,
    threads: int = 1,
    block: int = 16,
    precision: str = "fp32",
) -> None:
    result = RESULT if precision == "fp32" else f"{RESULT}_{precision}"
    path = RESULTS / f"{result}.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    have = {(r["network"], r["threads"], r["block"], r["density"]) for r in rows}
    device = this_device("cpu", Usage(threads))
    for name in networks or NETWORKS:
        for density in DENSITIES:
            if (name, threads, block, density) in have:
                continue
            row = {"network": name, "threads": threads, "block": block, "density": density}
            rows.append(row | timed(Network.load(name), density, block, device, precision))
            print(json.dumps(rows[-1]), flush=True)
            save(result, {"kernels": VERSION, "device": device.name, "rows": rows})
    print(path)


def timed(
    network: Network, density: float, block: int, device: Device, precision: str
) -> dict[str, float]:
    """The network on the kernels beside the dense one without them."""
    sparse = Architecture(density=dict.fromkeys(network.sparse_layers, density))
    over_fp32 = {}
    with tempfile.TemporaryDirectory(prefix="latprof-") as folder:
        files = [Path(folder) / name for name in ("dense.onnx", "sparse.onnx")]
        onnx.save(build(network, network.dense, precision=precision), str(files[0]))
        model = build(network, sparse, block=block, precision=precision)
        onnx.save(convert(model, block), str(files[1]))
        found = compare_files(*files, device)
        sizes = [file.stat().st_size for file in files]
        if precision != "fp32":
            onnx.save(build(network, network.dense), str(files[0]))
            also = compare_files(*files, device)
            over_fp32 = {
                "fp32_ms": also.dense_s * 1e3,
                "over_fp32": also.speedup,
                "over_fp32_low": also.speedup_low,
                "over_fp32_high": also.speedup_high,
            }
    return over_fp32 | {
        "dense_ms": found.dense_s * 1e3,
        "sparse_ms": found.latency_s * 1e3,
        "speedup": found.speedup,
        "low": found.speedup_low,
        "high": found.speedup_high,
        "dense_bytes": sizes[0],
        "sparse_bytes": sizes[1],
    }


if __name__ == "__main__":
    typer.run(main)
