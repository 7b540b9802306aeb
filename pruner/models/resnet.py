"""ResNets for CIFAR-10: He et al. 2016 (arXiv 1512.03385), section 4.2.

Deviations:
1. Shortcuts that change shape are 1×1 convolutions of stride 2 without BatchNorm. With the fixed
   0/1 kernel of `zero_padded_shortcut` they compute the paper's option A (every second pixel,
   new channels zero), and they can be pruned and exported like any other convolution.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut: (n, in, h, w) → (n, out, h / stride, w / stride)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            with torch.no_grad():
                self.shortcut.weight.copy_(zero_padded_shortcut(in_channels, out_channels))

    def forward(self, x: Tensor) -> Tensor:
        # The shortcut first: runtimes fuse the addition into the convolution that runs last.
        shortcut = self.shortcut(x)
        x = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(x)) + shortcut)


class CifarResNet(nn.Module):
    """A stem and stages of `blocks` BasicBlocks each; the width doubles at every stage."""

    # Checkpoints of the paper's network have no weights here: their shortcuts are free of them.
    absent_from_checkpoints = "shortcut.weight"

    def __init__(
        self,
        blocks: int,
        widths: tuple[int, ...] = (16, 32, 64),
        classes: int = 10,
        colours: int = 3,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(colours, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        stages = []
        for stage, width in enumerate(widths):
            before = widths[max(stage - 1, 0)]
            first = BasicBlock(before, width, stride=1 if stage == 0 else 2)
            others = [BasicBlock(width, width, stride=1) for _ in range(blocks - 1)]
            stages.append(nn.Sequential(first, *others))
        for stage, layer in enumerate(stages, start=1):
            setattr(self, f"layer{stage}", layer)  # the published checkpoints' names
        self.stages = len(stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        for stage in range(1, self.stages + 1):
            x = getattr(self, f"layer{stage}")(x)
        return self.linear(torch.flatten(self.pool(x), 1))


def zero_padded_shortcut(in_channels: int, out_channels: int) -> Tensor:
    """The (out, in, 1, 1) kernel that copies channels and pads zeros, half before, half after."""
    kernel = torch.zeros(out_channels, in_channels, 1, 1)
    before = (out_channels - in_channels) // 2
    for channel in range(in_channels):
        kernel[before + channel, channel] = 1.0
    return kernel


def resnet20(classes: int = 10) -> nn.Module:
    """ResNet-20 for 32×32 images: 0.27 M parameters."""
    return CifarResNet(3, classes=classes)


def resnet32(classes: int = 10) -> nn.Module:
    """ResNet-32 for 32×32 images: 0.46 M parameters."""
    return CifarResNet(5, classes=classes)


def resnet44(classes: int = 10) -> nn.Module:
    """ResNet-44 for 32×32 images: 0.66 M parameters."""
    return CifarResNet(7, classes=classes)


def resnet56(classes: int = 10) -> nn.Module:
    """ResNet-56 for 32×32 images: 0.85 M parameters."""
    return CifarResNet(9, classes=classes)


def digits_resnet(classes: int = 10) -> nn.Module:
    """A small residual network for scikit-learn's 8×8 digits; the demo prunes it."""
    return CifarResNet(2, widths=(64, 128), colours=1, classes=classes)
