"""Models of others, of random weights: a function without arguments for each, ten classes.

Some are timm's, which is no dependency of ours: `pip install timm` comes first.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module

import torch
from torch import nn
from torch.utils.data import TensorDataset

from benchmarks.traced import settled

SIZE = 64
CLASSES = 10


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
globals().update(MODELS)  # `--model benchmarks/others.py:NAME`


def images() -> tuple[TensorDataset, TensorDataset]:
    """Noise with labels: latency depends on neither."""
    generator = torch.Generator().manual_seed(0)

    def some(count: int) -> TensorDataset:
        x = torch.randn(count, 3, SIZE, SIZE, generator=generator)
        return TensorDataset(x, torch.arange(count) % CLASSES)

    return some(80), some(20)
