"""Whether neighbouring convolutions are faster as one, once the activation between them is gone.

    python -m benchmarks.merging [--again]

k×k behind l×l is one (k + l − 1)×(k + l − 1) convolution, and 1×1 leaves the other's size as it is
(LayerMerge, Kim et al. 2024, arXiv 2406.12837): fewer calls and fewer maps to write, but
mostly more to compute. Layers as they follow each other in networks, against what they would
become, each in a chain of REPEATS, in plain ONNX Runtime, in pairs (`latprof compare`'s timing).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import typer
from onnx import TensorProto, helper, numpy_helper

from benchmarks.results import RESULTS, save
from latprof.profile.compare import compare_files
from latprof.runtimes.base import Usage
from latprof.runtimes.here import this_device

NAME = "merging"
REPEATS = 6


class Conv(NamedTuple):
    """A convolution with stride 1 that keeps the maps' size, and a ReLU behind it."""

    kernel: int
    reads: int
    writes: int
    groups: int = 1

    def __str__(self) -> str:
        if self.groups > 1:
            return f"depthwise {self.kernel}×{self.kernel} {self.writes}"
        return f"{self.kernel}×{self.kernel} {self.reads}→{self.writes}"

    @property
    def weights(self) -> int:
        return self.kernel**2 * self.reads * self.writes // self.groups


class Case(NamedTuple):
    """Layers of a network at one size, and what they become."""

    network: str
    size: int
    layers: tuple[Conv, ...]
    merged: tuple[Conv, ...]


def _two(network: str, size: int, width: int) -> Case:
    one = Conv(3, width, width)
    return Case(network, size, (one, one), (Conv(5, width, width),))


def _bottleneck(size: int, wide: int, narrow: int, first: bool) -> Case:
    layers = Conv(1, wide, narrow), Conv(3, narrow, narrow), Conv(1, narrow, wide)
    merged = (Conv(3, wide, narrow), layers[2]) if first else (layers[0], Conv(3, narrow, wide))
    return Case("ResNet-50", size, layers, merged)


def _separable(size: int, width: int) -> Case:
    layers = Conv(3, width, width, width), Conv(1, width, width)
    return Case("MobileNet-V1", size, layers, (Conv(3, width, width),))


def _inverted(size: int, width: int) -> Case:
    wide = 6 * width
    layers = Conv(1, width, wide), Conv(3, wide, wide, wide), Conv(1, wide, width)
    return Case("MobileNet-V2", size, layers, (Conv(3, width, width),))


CASES = (
    *(_two("ResNet-56", size, width) for size, width in ((32, 16), (16, 32), (8, 64))),
    *(_two("VGG-16", size, width) for size, width in ((16, 128), (8, 256), (4, 512), (2, 512))),
    *(
        _bottleneck(size, wide, narrow, first)
        for size, wide, narrow in ((56, 256, 64), (14, 1024, 256))
        for first in (True, False)
    ),
    *(_separable(size, width) for size, width in ((56, 128), (14, 512))),
    *(_inverted(size, width) for size, width in ((56, 24), (28, 32), (14, 64), (14, 96))),
)


def main(again: bool = False) -> None:
    path = RESULTS / f"{NAME}.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() and not again else []
    device = this_device("cpu", Usage(1))
    for case in CASES:
        row = {
            "network": case.network, "size": case.size,
            "layers": [str(each) for each in case.layers],
            "merged": [str(each) for each in case.merged],
        }  # fmt: skip
        if any(row.items() <= known.items() for known in rows):
            continue
        with tempfile.TemporaryDirectory(prefix="latprof-") as folder:
            before, after = Path(folder) / "before.onnx", Path(folder) / "after.onnx"
            onnx.save(_chain(case.size, case.layers), str(before))
            onnx.save(_chain(case.size, case.merged), str(after))
            found = compare_files(before, after, device)
        rows.append(row | {
            "layers_us": found.dense_s * 1e6 / REPEATS,
            "weights": sum(c.weights for c in case.merged) / sum(c.weights for c in case.layers),
            "speedup": found.speedup, "low": found.speedup_low, "high": found.speedup_high,
        })  # fmt: skip
        print(json.dumps(rows[-1]), flush=True)
        save(NAME, {"device": device.name, "rows": rows})
    print(path)


def _chain(size: int, layers: Sequence[Conv]) -> onnx.ModelProto:
    """REPEATS times these layers behind a first one that brings an image to their width."""
    rng, width = np.random.default_rng(0), layers[0].reads
    every = [Conv(3, 3, width), *(REPEATS * [*layers])]
    nodes, weights, source = [], [], "image"
    for number, conv in enumerate(every):
        shape = conv.writes, conv.reads // conv.groups, conv.kernel, conv.kernel
        value = rng.standard_normal(shape) * (2 / np.prod(shape[1:])) ** 0.5
        weights.append(numpy_helper.from_array(value.astype(np.float32), f"w{number}"))
        bias = np.zeros(conv.writes, np.float32)
        weights.append(numpy_helper.from_array(bias, f"b{number}"))
        nodes += [
            helper.make_node(
                "Conv", [source, f"w{number}", f"b{number}"], [f"c{number}"],
                kernel_shape=[conv.kernel] * 2, pads=[conv.kernel // 2] * 4, group=conv.groups,
            ),
            helper.make_node("Relu", [f"c{number}"], [f"r{number}"]),
        ]  # fmt: skip
        source = f"r{number}"
    graph = helper.make_graph(
        nodes, "chain",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, size, size])],
        [helper.make_tensor_value_info(source, TensorProto.FLOAT, [1, width, size, size])],
        weights,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


if __name__ == "__main__":
    typer.run(main)
