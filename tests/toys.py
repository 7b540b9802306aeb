"""Small real things that the tests share: models, networks, and a table from a known cost."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from latprof.profile.design import any_width, design, unseen
from lookup_tables.architecture import Architecture
from lookup_tables.device import Device
from lookup_tables.layer import LayerSpec
from lookup_tables.model.latency_model import LatencyModel
from lookup_tables.network import ChannelGroup, Layer, Network
from lookup_tables.table.rows import LayerTime, Plan, Run
from lookup_tables.table.store import LatencyTable
from pruner.graph.trace import trace
from pruner.models.resnet import CifarResNet

DEVICE = Device(
    name="toy_1t",
    kind="cpu",
    processor="toy",
    runtime_version="1.0",
    provider="CPUExecutionProvider",
)


SPARSE_DEVICE = DEVICE.model_copy(
    update={"name": "toy_1t_sparse16", "runtime": "ort_sparse", "provider_options": {"block": "16"}}
)


def tiny_resnet() -> nn.Module:
    """Two stages of two blocks on 1×8×8 images; 4 groups, 3 of its blocks removable."""
    return CifarResNet(2, widths=(16, 24), colours=1)


@cache
def tiny_network() -> Network:
    return trace(tiny_resnet(), (1, 8, 8), "tiny").network


def small_resnet() -> nn.Module:
    """One block a stage, wide enough for 1×8×8 images to take a while; the journeys prune it."""
    return CifarResNet(1, widths=(64, 96), colours=1)


def photo_net() -> nn.Module:
    """Two classes of photographs, 3×224×224, most of their pixels left out at once."""
    return nn.Sequential(nn.AvgPool2d(8), CifarResNet(1, widths=(16, 24), classes=2))


class Branches(nn.Module):
    """Depthwise, concatenation, pooling, upsampling and a flattened linear layer on 3×8×8."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.act = nn.ReLU6()
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.left = nn.Conv2d(16, 24, 1)
        self.pool = nn.MaxPool2d(2)
        self.right = nn.Conv2d(16, 16, 3, padding=1)
        self.up = nn.Upsample(scale_factor=2)
        self.merge = nn.Conv2d(40, 32, 1)
        self.leaky = nn.LeakyReLU(0.1)
        self.head = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(128, 10))

    def forward(self, x):
        x = self.act(self.stem(x))
        left = torch.relu(self.left(torch.relu(self.norm(self.depthwise(x)))))
        right = self.up(torch.relu(self.right(self.pool(x))))
        return self.head(self.leaky(self.merge(torch.cat([left, right], dim=1))))


class Gated(nn.Module):
    """A squeeze-and-excitation gate: its channels are coupled with what it multiplies."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.squeeze = nn.Conv2d(16, 4, 1)
        self.excite = nn.Conv2d(4, 16, 1)
        self.last = nn.Conv2d(16, 4, 1)

    def forward(self, x):
        x = self.first(x)
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(self.pool(x)))))
        return self.last(x * gate)


class Merging(nn.Module):
    """As many branches as asked, concatenated and read by one convolution."""

    def __init__(self, branches: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Conv2d(3, 16, 3, padding=1) for _ in range(branches))
        self.last = nn.Conv2d(16 * branches, 8, 1)

    def forward(self, x):
        return self.last(torch.cat([torch.relu(branch(x)) for branch in self.branches], dim=1))


def chain(*widths: int) -> Network:
    """A plain chain of 3×3 convolutions on 3×16×16; every layer but the last is a group."""
    layers, previous = [], "input"
    for i, width in enumerate(widths):
        group = f"g{i}" if i < len(widths) - 1 else None
        layers.append(
            Layer(
                name=f"conv{i}",
                kind="conv",
                inputs=(previous,),
                channels=width,
                group=group,
                kernel=(3, 3),
                padding=(1, 1),
                activation="relu",
            )
        )
        previous = f"conv{i}"
    groups = tuple(
        ChannelGroup(name=f"g{i}", width=w, choices=(w // 4, w // 2, w))
        for i, w in enumerate(widths[:-1])
    )
    return Network(name="chain", input_shape=(3, 16, 16), groups=groups, layers=tuple(layers))


def macs_with_steps(spec: LayerSpec) -> float:
    """Seconds that climb in steps of 8 channels, plus a cost per layer; never 0."""
    rounded = -(-spec.out_channels // 8) * 8
    area = spec.out_size[0] * spec.out_size[1]
    work = spec.in_channels * rounded * spec.kernel[0] * spec.kernel[1] * area
    return 2e-6 + work * 1e-10


def by_kept_weights(spec: LayerSpec) -> float:
    """Seconds on kernels of blocks of 16: for the call, for each output, for each kept weight."""
    if spec.kind != "conv":
        return 1e-6
    area = spec.out_size[0] * spec.out_size[1]
    outputs = -(-spec.out_channels // 16) * 16 * area
    taps = spec.density * spec.in_channels * spec.kernel[0] * spec.kernel[1]
    return 1e-6 + outputs * (1e-11 + taps * 1e-11)


def synthetic_table(
    folder: Path,
    network: Network,
    cost: Callable[[LayerSpec], float] = macs_with_steps,
    levels: int = 4,
    samples: int = 12,
    off_menu: int = 0,
    device: Device = DEVICE,
) -> LatencyTable:
    """A table as a perfect profiler would write it on a device that costs `cost` per layer.

    `off_menu`: so many designed networks of any width, beside the array.
    """
    table = LatencyTable.create(folder, device)
    rng = np.random.default_rng(3)
    sparse = network.sparse_layers if device.block else ()
    designed = design(network, levels, 0, sparse)
    designed += [any_width(network, rng) for _ in range(off_menu)]
    plan = Plan(
        network=network.name,
        fingerprint=network.fingerprint,
        levels=levels,
        seed=0,
        menu={group.name: group.choices for group in network.groups},
    )
    rows = [_run(network, cost, "design", i, a) for i, a in enumerate(designed)]
    tests = unseen(network, samples, 0, designed, sparse=sparse)
    rows += [_run(network, cost, "unseen", i, a) for i, a in enumerate(tests)]
    table.append(network.name, [plan, *rows])
    return table


def models_of(tmp_path_factory, networks: dict[str, Network], *arguments, **options):
    """Name → its latency model, from a synthetic table that is made when first asked for."""
    made: dict[str, LatencyModel] = {}

    def make(name: str) -> LatencyModel:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            table = synthetic_table(folder, networks[name], *arguments, **options)
            made[name] = LatencyModel(networks[name], table)
        return made[name]

    return make


def true_s(network: Network, architecture: Architecture, cost=macs_with_steps) -> float:
    """What the synthetic device takes for an architecture."""
    return sum(cost(spec) for _, spec in network.layer_specs(architecture))


def _run(network: Network, cost, purpose: str, number: int, architecture: Architecture) -> Run:
    dense_s = true_s(network, network.dense, cost)
    whole_s = true_s(network, architecture, cost)
    layers = tuple(
        LayerTime(layer=spec, seconds=cost(spec), nodes=1)
        for _, spec in network.layer_specs(architecture)
    )
    return Run(
        purpose=purpose, run=number, architecture=architecture, dense_s=dense_s, whole_s=whole_s,
        ratio=whole_s / dense_s, pairs=12, measuring_s=max(0.1, 12 * (dense_s + whole_s)),
        layers=layers if purpose == "design" else (),
    )  # fmt: skip


def write_image(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def imagenet_folder(folder: Path, classes: int = 2, train: int = 8, val: int = 4) -> None:
    """Tiny images in ImageNet's layout: train/ and val/ with one folder a class."""
    for part, count in (("train", train), ("val", val)):
        for i in range(count):
            write_image(folder / part / f"n{i % classes:08d}" / f"{i}.JPEG", i)


def food101_folder(folder: Path, each: int = 2) -> None:
    """Tiny images of two classes in the layout that torchvision unpacks Food-101 to."""
    meta = folder / "food-101" / "meta"
    meta.mkdir(parents=True)
    for part in ("train", "test"):
        names = {c: [f"{c}/{part}{i}" for i in range(each)] for c in ("pie", "soup")}
        (meta / f"{part}.json").write_text(str(names).replace("'", '"'))
        for entry in (entry for entries in names.values() for entry in entries):
            write_image(folder / "food-101" / "images" / f"{entry}.jpg", len(entry))
