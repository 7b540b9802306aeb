"""Models of others, of random weights: a function without arguments for each, ten classes.

Some are timm's, which is no dependency of ours: `pip install timm` comes first. `WITH_HEADS` are
detectors and segmenting networks: torchvision's without what turns maps into boxes, and a U-Net and
a detector of cross-stage partial blocks in the manner of their published descriptions.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

SIZE = 64
CLASSES = 10


def settled(model: nn.Module) -> nn.Module:
    """With BatchNorms that do something, and weights that neither vanish nor explode."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d) and module.running_mean is not None:
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.8, 1.2)
    for name, parameter in model.named_parameters():  # 1e-6 before training: nothing would be heard
        if name.endswith(("layer_scale", "gamma")):
            nn.init.ones_(parameter)
    return model


def _of_torchvision(name: str) -> nn.Module:
    torch.manual_seed(0)
    return settled(import_module("torchvision.models").get_model(name, num_classes=CLASSES))


def _of_timm(name: str) -> nn.Module:
    torch.manual_seed(0)
    return settled(import_module("timm").create_model(name, num_classes=CLASSES))


MODELS: dict[str, Callable[[], nn.Module]] = {
    **{
        name: partial(_of_torchvision, name)
        for name in (
            "resnext50_32x4d", "densenet121", "efficientnet_b0", "mobilenet_v3_large",
            "regnet_y_400mf",
        )
    },
    **{
        name: partial(_of_timm, name)
        for name in (
            "convnext_atto", "hrnet_w18_small", "ghostnet_100", "repvgg_a0", "cspdarknet53",
        )
    },
}  # fmt: skip


class RawHeads(nn.Module):
    """A backbone of several scales, and what each head's convolutions answer at each."""

    def __init__(self, backbone: nn.Module, *heads: nn.ModuleList) -> None:
        super().__init__()
        self.backbone, self.heads = backbone, nn.ModuleList(heads)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = [*self.backbone(x).values()]
        return [layer(m) for head in self.heads for layer, m in zip(head, maps, strict=True)]


def _ssdlite() -> nn.Module:
    make = import_module("torchvision.models.detection").ssdlite320_mobilenet_v3_large
    model = make(weights=None, weights_backbone=None, num_classes=CLASSES)
    heads = model.head.classification_head, model.head.regression_head
    return RawHeads(model.backbone, *(head.module_list for head in heads))


def _segmenting(name: str) -> nn.Module:
    make = getattr(import_module("torchvision.models.segmentation"), name)
    return make(weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=True)


def _conv(reads: int, writes: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(reads, writes, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(writes), nn.SiLU(inplace=True))


class UNet(nn.Module):
    """Down, up, and across (Ronneberger et al. 2015, arXiv 1505.04597), with padded maps."""

    def __init__(self, width: int = 16, levels: int = 3) -> None:
        super().__init__()
        widths = [width << level for level in range(levels + 1)]
        reads = (3, *widths)
        self.down = nn.ModuleList(
            nn.Sequential(_conv(reads[i], w), _conv(w, w)) for i, w in enumerate(widths)
        )
        pairs = [*zip(widths[:0:-1], widths[-2::-1], strict=True)]
        self.up = nn.ModuleList(nn.ConvTranspose2d(low, w, 2, 2) for low, w in pairs)
        self.across = nn.ModuleList(nn.Sequential(_conv(2 * w, w), _conv(w, w)) for _, w in pairs)
        self.pool, self.head = nn.MaxPool2d(2), nn.Conv2d(width, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps = []
        for step in self.down:
            x = step(self.pool(x) if maps else x)
            maps.append(x)
        maps.pop()
        for up, step in zip(self.up, self.across, strict=True):
            x = step(torch.cat([maps.pop(), up(x)], 1))
        return self.head(x)


class Partial(nn.Module):
    """A cross-stage partial block: one half goes through bottlenecks, all parts are joined."""

    def __init__(self, reads: int, writes: int, count: int, adds: bool = True) -> None:
        super().__init__()
        half = writes // 2
        self.first, self.last = _conv(reads, writes, 1), _conv((2 + count) * half, writes, 1)
        self.steps = nn.ModuleList(
            nn.Sequential(_conv(half, half), _conv(half, half)) for _ in range(count)
        )
        self.adds = adds

    def forward(self, x: Tensor) -> Tensor:
        parts = [*self.first(x).chunk(2, 1)]
        for step in self.steps:
            parts.append(parts[-1] + step(parts[-1]) if self.adds else step(parts[-1]))
        return self.last(torch.cat(parts, 1))


class Pyramid(nn.Module):
    """Three pools, one behind the other, joined."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.last = _conv(width, width // 2, 1), _conv(2 * width, width, 1)
        self.pool = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.first(x)]
        for _ in range(3):
            parts.append(self.pool(parts[-1]))
        return self.last(torch.cat(parts, 1))


class PartialDetector(nn.Module):
    """Partial blocks down to a 32nd, up again to an 8th, and a head at each of three scales."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        w = [width << i for i in range(5)]
        self.stem = _conv(3, w[0], 3, 2)
        self.stages = nn.ModuleList(
            nn.Sequential(_conv(a, b, 3, 2), Partial(b, b, 1)) for a, b in pairwise(w)
        )
        self.pyramid, self.larger = Pyramid(w[4]), nn.Upsample(scale_factor=2)
        self.up = nn.ModuleList(
            [Partial(w[4] + w[3], w[3], 1, adds=False), Partial(w[3] + w[2], w[2], 1, adds=False)]
        )
        self.smaller = nn.ModuleList([_conv(w[2], w[2], 3, 2), _conv(w[3], w[3], 3, 2)])
        self.down = nn.ModuleList(
            [Partial(w[2] + w[3], w[3], 1, adds=False), Partial(w[3] + w[4], w[4], 1, adds=False)]
        )
        self.heads = nn.ModuleList(
            nn.Sequential(_conv(n, n), nn.Conv2d(n, 4 + CLASSES, 1)) for n in w[2:]
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        x, maps = self.stem(x), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        eighth, sixteenth, last = maps[1], maps[2], self.pyramid(maps[3])
        middle = self.up[0](torch.cat([self.larger(last), sixteenth], 1))
        first = self.up[1](torch.cat([self.larger(middle), eighth], 1))
        middle = self.down[0](torch.cat([self.smaller[0](first), middle], 1))
        last = self.down[1](torch.cat([self.smaller[1](middle), last], 1))
        maps = [first, middle, last]
        return [head(m) for head, m in zip(self.heads, maps, strict=True)]


WITH_HEADS: dict[str, Callable[[], nn.Module]] = {
    "ssdlite320_mobilenet_v3_large": _ssdlite,
    "fcn_resnet50": partial(_segmenting, "fcn_resnet50"),
    "deeplabv3_mobilenet_v3_large": partial(_segmenting, "deeplabv3_mobilenet_v3_large"),
    "unet": UNet,
    "partial_detector": PartialDetector,
}
globals().update(MODELS)  # `--model benchmarks/others.py:NAME`


def images() -> tuple[TensorDataset, TensorDataset]:
    """Noise with labels: latency depends on neither."""
    generator = torch.Generator().manual_seed(0)

    def some(count: int) -> TensorDataset:
        x = torch.randn(count, 3, SIZE, SIZE, generator=generator)
        return TensorDataset(x, torch.arange(count) % CLASSES)

    return some(80), some(20)
