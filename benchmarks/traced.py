"""Which models of others are traced, and whether they are right when they are cut and exported.

    python -m benchmarks.traced [--again] [--source heads] [--source timm --listed FILE] [NAME …]

Every convolutional classifier of torchvision, or those of timm that a file lists, where timm is
installed, or the detectors and segmenting networks of `benchmarks/others.py`: traced; cut at random
three times and compared with the dense network that does not hear the other channels
(`pruner/graph/check.py`); one of the three is exported and compared with PyTorch in ONNX Runtime.
Weights are random. It can be interrupted: what the result file holds is not tried again, unless by
`--again`.
"""

from __future__ import annotations

import importlib
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import nn
from torch.utils._pytree import tree_leaves

from benchmarks.others import WITH_HEADS, settled
from benchmarks.results import RESULTS, save
from lookup_tables.errors import ContractError
from pruner.graph.check import cut_to, deaf, random_channels, require_right_cuts
from pruner.graph.trace import Trace, trace
from pruner.train.export import export_onnx

SIZES = {  # others: SIZE; these pool to a size that must be there
    "inception_v3": 128, "inception_v4": 128, "inception_resnet_v2": 128, "xception": 128,
    "nasnetalarge": 128, "pnasnet5large": 128, "alexnet": 224,
    "bat_resnext26ts": 256,
}  # fmt: skip
SIZE = 96
NO_CNN = ("vit_", "swin_", "maxvit")
LARGEST = 250e6  # parameters of what is cut and exported: more take this machine's memory


def main(
    names: Annotated[list[str] | None, typer.Argument()] = None,
    again: bool = False,
    source: str = "torchvision",
    listed: Path | None = None,
) -> None:
    path = RESULTS / "traced.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    have = {(row["source"], row["model"]) for row in rows if not again}
    every = WITH_HEADS if source == "heads" else _names()
    for name in names or (listed.read_text().split() if listed else every):
        if (source, name) in have:
            continue
        row = {"source": source, "model": name, **_tried(source, name)}
        rows = [r for r in rows if (r["source"], r["model"]) != (source, name)] + [row]
        print(json.dumps(row), flush=True)
        save("traced", {"rows": rows})
    print(path)


def _names() -> Iterator[str]:
    models = importlib.import_module("torchvision.models")
    yield from (n for n in models.list_models(module=models) if not n.startswith(NO_CNN))


def _made(source: str, name: str) -> nn.Module:
    torch.manual_seed(0)
    if source == "heads":
        return WITH_HEADS[name]()
    if source == "timm":
        return importlib.import_module("timm").create_model(name, pretrained=False)
    given = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return importlib.import_module("torchvision.models").get_model(name, **given)


def _tried(source: str, name: str) -> dict:
    model = settled(_made(source, name)).eval()
    size = 224 if name.startswith("vgg") else SIZES.get(name, SIZE)
    start = time.perf_counter()
    try:
        traced = trace(model, (3, size, size), name.replace(".", "_"))
    except ContractError as error:
        return {"refused": str(error)}
    row: dict = {
        "trace_s": round(time.perf_counter() - start, 1),
        "layers": len(traced.network.layers),
        "groups": len(traced.network.groups),
        "kept": len(traced.kept),
        "blocks": len(traced.network.blocks),
    }
    if sum(parameter.numel() for parameter in model.parameters()) > LARGEST:
        return row | {"left_out": "too large to be copied here"}
    try:
        row["cut_differs"] = require_right_cuts(traced)
        row["hearing_differs"] = hearing(traced)
        small = cut_to(traced, random_channels(traced.network, 0))
        with tempfile.TemporaryDirectory() as folder:
            row["export_differs"] = export_onnx(small, (3, size, size), Path(folder) / "m.onnx")
    except ContractError as error:
        row["failed"] = str(error)
    return row


def hearing(traced: Trace) -> float:
    """By how much the dense network answers otherwise where it hears all channels.

    If it were nothing, the comparison would say nothing.
    """
    x = torch.randn(2, *traced.network.input_shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        whole = tree_leaves(traced.module.eval()(x))[0]
        part = tree_leaves(deaf(traced, random_channels(traced.network, 0))(x))[0]
    return float((whole - part).abs().max() / whole.abs().max())


if __name__ == "__main__":
    typer.run(main)
