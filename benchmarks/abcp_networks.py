"""ABCP's three published networks, rebuilt from their layer lists: parameters and FLOPs.

Each is our YOLOv3 for as many classes as the published one tells apart, cut to the widths and
blocks of its list, weights and all. FLOPs are twice the multiply-accumulates at 416×416, as the
paper counts them. Their times are in `anchors_….json` (`benchmarks/anchors.py`).

    python -m benchmarks.abcp_networks --anchors-dir FOLDER
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.anchors import abcp
from benchmarks.results import save
from lookup_tables.architecture import Architecture
from lookup_tables.network import Network
from pruner import models
from pruner.graph.surgery import cut, keep_best
from pruner.graph.trace import trace

SHAPE = (3, 416, 416)


def main(anchors_dir: Annotated[Path, typer.Option()]) -> None:
    described = json.loads((anchors_dir / "abcp_yolov3.json").read_text())["networks"]
    results = {}
    for label, facts in described.items():
        if label != "dense":
            results[label] = _rebuilt(facts)
            print(label, {name: round(value, 3) for name, value in results[label].items()})
    print(save("abcp_networks", {"networks": results}))


def _rebuilt(facts: dict) -> dict[str, float]:
    (classes,) = {layer["classes"] for layer in facts["layers"] if layer["op"] == "detect"}
    traced = trace(models.build("yolov3", classes), SHAPE, "yolov3")
    architecture = abcp(traced.network, facts)
    any_channel = {group.name: torch.ones(group.width) for group in traced.network.groups}
    kept = keep_best(traced.network, architecture, any_channel)
    small = cut(traced, architecture, kept)
    found = {
        "classes": classes,
        "gflops": _gflops(traced.network, architecture),
        "gflops_dense": _gflops(traced.network, traced.network.dense),
        "mparams": sum(p.numel() for p in small.parameters()) / 1e6,
        "mparams_dense": sum(p.numel() for p in traced.module.parameters()) / 1e6,
        "convolutions": sum(isinstance(m, torch.nn.Conv2d) for m in small.modules()),
        "shortcuts": len(traced.network.blocks) - len(architecture.removed),
    }
    published = {name: facts["published"].get(name) for name in found}
    told = {f"published_{name}": value for name, value in published.items() if value}
    errors = {f"error_{n}": found[n] / v - 1 for n, v in published.items() if v}
    return found | told | errors


def _gflops(network: Network, architecture: Architecture) -> float:
    return 2 * network.macs_of(architecture) / 1e9


if __name__ == "__main__":
    typer.run(main)
