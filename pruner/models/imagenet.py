"""torchvision's networks as they are, and the versions for 32×32 images.

Ours: for 32×32 images the early reductions keep the size, as is usual for CIFAR-10, and VGG-16
has one linear layer behind its convolutions.
"""

from __future__ import annotations

from types import ModuleType

from torch import nn


def resnet18(classes: int = 1000) -> nn.Module:
    """ResNet-18 for 224×224 images (He et al. 2016, arXiv 1512.03385, table 1)."""
    return _torchvision().resnet18(num_classes=classes)


def resnet50(classes: int = 1000) -> nn.Module:
    """ResNet-50 for 224×224 images (the same table)."""
    return _torchvision().resnet50(num_classes=classes)


def resnet18_cifar(classes: int = 10) -> nn.Module:
    """ResNet-18 for 32×32 images: 11.2 M parameters."""
    return _small_stem(_torchvision().resnet18(num_classes=classes))


def resnet50_cifar(classes: int = 10) -> nn.Module:
    """ResNet-50 for 32×32 images: 23.5 M parameters."""
    return _small_stem(_torchvision().resnet50(num_classes=classes))


def _torchvision() -> ModuleType:
    """Its models, imported only where one is asked for: that takes longer than all else here."""
    from torchvision import models

    return models


def _small_stem(model: nn.Module) -> nn.Module:
    """Keeps the size up to the second stage: last maps of 4×4."""
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
    return model


def vgg16(classes: int = 1000) -> nn.Module:
    """VGG-16 with BatchNorm for 224×224 images (arXiv 1409.1556, table 1, D)."""
    return _torchvision().vgg16_bn(num_classes=classes)


def vgg16_cifar(classes: int = 10) -> nn.Module:
    """VGG-16 with BatchNorm for 32×32 images: 14.7 M parameters."""
    features = _torchvision().vgg16_bn().features
    return nn.Sequential(features, nn.Flatten(), nn.Linear(512, classes))


def mobilenet_v2(classes: int = 1000) -> nn.Module:
    """MobileNet-V2 for 224×224 images (arXiv 1801.04381, table 2)."""
    return _torchvision().mobilenet_v2(num_classes=classes)


def mobilenet_v2_cifar(classes: int = 10) -> nn.Module:
    """MobileNet-V2 for 32×32 images; last maps of 4×4."""
    # expansion, channels, repeats, stride
    stages = [
        [1, 16, 1, 1],
        [6, 24, 2, 1],
        [6, 32, 3, 2],
        [6, 64, 4, 2],
        [6, 96, 3, 1],
        [6, 160, 3, 2],
        [6, 320, 1, 1],
    ]
    model = _torchvision().mobilenet_v2(num_classes=classes, inverted_residual_setting=stages)
    model.features[0][0].stride = (1, 1)
    return model
