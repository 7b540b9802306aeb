"""Networks that others pruned and published: predicted against measured speedup.

MobileNet-V1 as AMC pruned it (He et al., ECCV 2018) and the three YOLOv3 of ABCP (arXiv
2110.03858). Most of their widths lie between those of a table's menu and are interpolated.

Ours: ABCP's networks keep the heads of our YOLOv3 (80 classes), dense and pruned alike, because a
table is of one network; published are heads for 5, 1 and 3 classes.

What the saved result has is not measured again (delete it to do so), only predicted again; of
another device's results, with `--device`, nothing else.

    python -m benchmarks.anchors --anchors-dir FOLDER [--threads 1] [--device NAME]
"""

from __future__ import annotations

import json
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import onnx
import typer

from benchmarks.results import RESULTS, save
from latprof.onnx.writer import build
from latprof.profile.compare import compare_files
from latprof.runtimes.base import Usage
from latprof.runtimes.here import this_device
from lookup_tables.architecture import Architecture
from lookup_tables.device import Device
from lookup_tables.model.latency_model import LatencyModel
from lookup_tables.network import Network
from lookup_tables.table.home import DATA
from lookup_tables.table.store import LatencyTable

PASSES = 3  # one pair of sessions differs from the next by a percent
MEASURED = ("measured_speedup", "measured_low", "measured_high", "dense_ms", "pruned_ms")


def main(
    anchors_dir: Annotated[Path, typer.Option()],
    threads: int = 1,
    tables: Path = DATA,
    device: str | None = None,
) -> None:
    here = this_device("cpu", Usage(threads))
    table = LatencyTable.open(tables / (device or here.name))
    result = f"anchors_{table.device.name}"
    known = _measured_before(RESULTS / f"{result}.json", table.device)
    results: dict[str, dict] = {}
    for name, published in (("mobilenet_v1", "amc_mobilenet_v1"), ("yolov3", "abcp_yolov3")):
        if not table.path(name).exists():
            continue
        network = Network.load(name)
        described = json.loads((anchors_dir / f"{published}.json").read_text())["networks"]
        read = amc if name == "mobilenet_v1" else abcp
        results[name] = {}
        for label, facts in described.items():
            if label != "dense":
                architecture = read(network, facts)
                if label not in known:
                    here.require(table.device, str(table.folder))
                    known[label] = _measure(network, architecture, here)
                results[name][label] = _judge(network, architecture, table, known[label])
    print(save(result, {"device": table.device.model_dump(), "networks": results}))


def amc(network: Network, facts: dict) -> Architecture:
    """The published widths, in the order of the network's groups."""
    names = [group.name for group in network.groups]
    return Architecture(widths=dict(zip(names, facts["widths"], strict=True)))


def abcp(network: Network, facts: dict) -> Architecture:
    """The published layer list on our YOLOv3: widths per group, and the blocks that are gone.

    A block is a 1×1 and a 3×3 convolution and an addition; what is left of a stage is taken for
    its first blocks. Then come three heads of seven convolutions each, the last of which predicts.
    """
    layers = facts["layers"]
    first_head = next(i for i, entry in enumerate(layers) if entry["op"] == "detect") - 7
    widths: dict[str, int] = {"stem.conv": layers[0]["filters"]}
    kept: set[str] = set()
    stage, block = -1, 0
    for entry, following in pairwise(layers[1 : first_head + 1]):
        if entry["op"] == "conv" and entry["stride"] == 2:
            stage, block = stage + 1, 0
            widths[f"stages.{stage}.0.conv"] = entry["filters"]
        elif entry["op"] == "conv" and entry["size"] == 1 and following["size"] == 3:
            block += 1
            name = f"stages.{stage}.{block}.reduce.conv"
            widths[name] = entry["filters"]
            kept.add(name)
    heads = [entry["filters"] for entry in layers[first_head:] if entry["op"] == "conv"]
    names = [f"{part}" for part in _head_convolutions()]
    widths |= {n: w for n, w in zip(names, heads, strict=True) if not n.endswith("predict")}
    removed = [b.name for b in network.blocks if not kept & set(b.layers)]
    return Architecture(widths=widths, removed=tuple(removed))


def _head_convolutions() -> list[str]:
    names = []
    for head, bridge in (("coarse", None), ("middle", "to_middle"), ("fine", "to_fine")):
        names += [f"{bridge}.conv"] if bridge else []
        names += [f"{head}.neck.{i}.conv" for i in range(5)]
        names += [f"{head}.widen.conv", f"{head}.predict"]
    return names


def _judge(network: Network, architecture: Architecture, table: LatencyTable, measured: dict):
    """What the table predicts, beside what was measured."""
    model = LatencyModel(network, table)
    prediction = model.predict_architectures([architecture])
    predicted = model.dense_s / float(prediction.latency_s[0])
    return {
        "predicted_speedup": predicted,
        "predicted_low": model.dense_s / float(prediction.high_s[0]),
        "predicted_high": model.dense_s / float(prediction.low_s[0]),
        "interpolated": float(prediction.interpolated[0]),
        "error": predicted / measured["measured_speedup"] - 1,
        **measured,
        "macs_share": network.macs_of(architecture) / network.macs_of(network.dense),
    }


def _measure(network: Network, architecture: Architecture, device: Device) -> dict:
    """The median of several fresh pairs of sessions."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{name}.onnx" for name in ("dense", "pruned")]
        for file, built in zip(files, (network.dense, architecture), strict=True):
            onnx.save(build(network, built, device.batch), str(file))
        found = sorted(
            (compare_files(*files, device) for _ in range(PASSES)), key=lambda m: m.speedup
        )
    measured = found[PASSES // 2]
    return {
        "measured_speedup": measured.speedup,
        "measured_low": measured.speedup_low,
        "measured_high": measured.speedup_high,
        "dense_ms": measured.dense_s * 1e3,
        "pruned_ms": measured.latency_s * 1e3,
    }


def _measured_before(path: Path, device: Device) -> dict[str, dict]:
    """label → what an earlier run measured on this device."""
    if not path.exists():
        return {}
    before = json.loads(path.read_text())
    if before["device"] != device.model_dump():
        return {}
    labelled = [item for networks in before["networks"].values() for item in networks.items()]
    return {label: {name: row[name] for name in MEASURED} for label, row in labelled}


if __name__ == "__main__":
    typer.run(main)
