"""MobileNet-V1: Howard et al. 2017 (arXiv 1704.04861), table 1."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# (output channels, stride) of the 13 depthwise-separable blocks at 224×224.
_IMAGENET = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2),
    *[(512, 1)] * 5, (1024, 2), (1024, 1),
)  # fmt: skip


class Separable(nn.Module):
    """A depthwise 3×3 and a pointwise convolution, each with BatchNorm and ReLU."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(
            in_channels, in_channels, 3, stride, 1, groups=in_channels, bias=False
        )
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU()
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.bn1(self.depthwise(x)))
        return self.relu2(self.bn2(self.pointwise(x)))


class MobileNetV1(nn.Module):
    """`strides` is the first convolution's stride followed by those of the 13 blocks."""

    def __init__(self, strides: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, strides[0], 1, bias=False)
        self.bn = nn.BatchNorm2d(32)
        self.relu = nn.ReLU()
        widths = (32, *(width for width, _ in _IMAGENET))
        self.blocks = nn.Sequential(
            *(Separable(widths[i], widths[i + 1], strides[i + 1]) for i in range(13))
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn(self.stem(x)))
        return self.classifier(torch.flatten(self.pool(self.blocks(x)), 1))


def mobilenet_v1(classes: int = 1000) -> nn.Module:
    """MobileNet-V1 for 224×224 images: 4.2 M parameters, 569 M MACs."""
    return MobileNetV1((2, *(stride for _, stride in _IMAGENET)), classes)


def mobilenet_v1_cifar(classes: int = 10) -> nn.Module:
    """MobileNet-V1 for 32×32 images.

    Ours: the first convolution and the first reduction keep the size, so that the last maps are
    4×4 rather than 1×1, as is usual for CIFAR-10.
    """
    strides = [stride for _, stride in _IMAGENET]
    strides[1] = 1
    return MobileNetV1((1, *strides), classes)
