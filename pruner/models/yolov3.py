"""YOLOv3 and its smaller member: Redmon and Farhadi 2018 (arXiv 1804.02767), table 1, section 2.3.

YOLOv3 has 75 convolutions, 23 residual blocks, two routes back to the backbone, three heads; tiny
has 13 convolutions and two heads, as its authors' yolov3-tiny.cfg says. The outputs are the raw
maps of the heads, (n, anchors · (5 + classes), h, w), coarse to fine.

Modules stand in the order in which Darknet lists their layers: its weight files are read so.

Ours:
1. Where a map begins, objects are rare: its objectness starts at 1 % (Lin et al. 2017, arXiv
   1708.02002, section 3.3), which Darknet leaves to its warm-up.
2. Tiny's last pool keeps the size by a border of minus infinity on the right and below.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

PER_MAP = 3  # anchors
# Width and number of residual blocks of Darknet-53's stages.
STAGES = ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4))
SMALL_STAGES = ((16, 1), (32, 1), (64, 2), (96, 2), (128, 1))  # for drawn shapes
RARE = 0.01  # share of a map's predictions that are objects, before training


class ConvNorm(nn.Module):
    """Convolution, BatchNorm, LeakyReLU of slope 0.1."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)
        self.act = nn.LeakyReLU(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


class Residual(nn.Module):
    """A 1×1 convolution to half the width and a 3×3 one back, beside a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.reduce = ConvNorm(width, width // 2, 1)
        self.expand = ConvNorm(width // 2, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.expand(self.reduce(x))


class Head(nn.Module):
    """Five convolutions whose result is routed on, and two that predict."""

    def __init__(self, in_channels: int, width: int, outputs: int) -> None:
        super().__init__()
        self.neck = nn.Sequential(
            ConvNorm(in_channels, width, 1),
            ConvNorm(width, 2 * width, 3),
            ConvNorm(2 * width, width, 1),
            ConvNorm(width, 2 * width, 3),
            ConvNorm(2 * width, width, 1),
        )
        self.widen = ConvNorm(width, 2 * width, 3)
        self.predict = _predict(2 * width, outputs)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        routed = self.neck(x)
        return routed, self.predict(self.widen(routed))


class YoloV3(nn.Module):
    """Darknet-53 with three heads, for images whose sides are multiples of 32.

    `stages`: width and residual blocks of each of five; the stem is half as wide as the first.
    """

    def __init__(self, classes: int, stages: Sequence[tuple[int, int]] = STAGES) -> None:
        super().__init__()
        outputs = PER_MAP * (5 + classes)
        before = stages[0][0] // 2
        self.stem = ConvNorm(3, before, 3)
        self.stages = nn.ModuleList()
        for width, blocks in stages:
            down = ConvNorm(before, width, 3, stride=2)
            self.stages.append(nn.Sequential(down, *(Residual(width) for _ in range(blocks))))
            before = width
        fine, middle, coarse = (width for width, _ in stages[2:])
        self.coarse = Head(coarse, coarse // 2, outputs)
        self.to_middle = ConvNorm(coarse // 2, middle // 2, 1)
        self.middle = Head(middle // 2 + middle, middle // 2, outputs)
        self.to_fine = ConvNorm(middle // 2, fine // 2, 1)
        self.fine = Head(fine // 2 + fine, fine // 2, outputs)
        self.up = nn.Upsample(scale_factor=2)
        self.up_again = nn.Upsample(scale_factor=2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.stem(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        routed, coarse = self.coarse(maps[4])
        x = torch.cat([self.up(self.to_middle(routed)), maps[3]], dim=1)
        routed, middle = self.middle(x)
        x = torch.cat([self.up_again(self.to_fine(routed)), maps[2]], dim=1)
        _, fine = self.fine(x)
        return coarse, middle, fine


class TinyYoloV3(nn.Module):
    """Seven convolutions with pools between them, two heads; sides are multiples of 32."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        outputs = PER_MAP * (5 + classes)
        widths = (3, 16, 32, 64, 128, 256)
        self.fine_stages = nn.Sequential()
        for number, (before, width) in enumerate(pairwise(widths)):
            if number:
                self.fine_stages.append(nn.MaxPool2d(2))
            self.fine_stages.append(ConvNorm(before, width, 3))
        self.coarse_stages = nn.Sequential(
            nn.MaxPool2d(2),
            ConvNorm(256, 512, 3),
            nn.ConstantPad2d((0, 1, 0, 1), -math.inf),
            nn.MaxPool2d(2, stride=1),
            ConvNorm(512, 1024, 3),
            ConvNorm(1024, 256, 1),
        )
        self.widen = ConvNorm(256, 512, 3)
        self.predict = _predict(512, outputs)
        self.to_fine = ConvNorm(256, 128, 1)
        self.up = nn.Upsample(scale_factor=2)
        self.widen_fine = ConvNorm(128 + 256, 256, 3)
        self.predict_fine = _predict(256, outputs)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.fine_stages(x)
        routed = self.coarse_stages(fine)
        coarse = self.predict(self.widen(routed))
        x = torch.cat([self.up(self.to_fine(routed)), fine], dim=1)
        return coarse, self.predict_fine(self.widen_fine(x))


def _predict(in_channels: int, outputs: int) -> nn.Conv2d:
    """A map's last convolution, whose objectness starts low."""
    conv = nn.Conv2d(in_channels, outputs, 1)
    with torch.no_grad():
        bias = conv.bias.view(PER_MAP, -1)  # type: ignore[union-attr]
        bias.zero_()
        bias[:, 4] = -math.log((1 - RARE) / RARE)
    return conv


def yolov3(classes: int = 80) -> nn.Module:
    """YOLOv3 for 416×416 images; with the 80 classes of COCO 62 M parameters."""
    return YoloV3(classes)


def tiny_yolov3(classes: int = 80) -> nn.Module:
    """YOLOv3's smaller member for 416×416 images; 8.9 M parameters with COCO's classes."""
    return TinyYoloV3(classes)


def shapes_yolov3(classes: int = 3) -> nn.Module:
    """A small one of YOLOv3's structure, for the set of drawn shapes; 0.9 M parameters."""
    return YoloV3(classes, SMALL_STAGES)
