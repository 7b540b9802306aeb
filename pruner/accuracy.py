"""Accuracy: of a PyTorch model, of an exported one, and after recalibrating BatchNorm."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from pruner.compute import fast_arithmetic, on_processor
from pruner.data import Images, batches

BATCH = 250


def accuracy(
    model: nn.Module, images: Images, count: int | None = None, fast: bool = False
) -> float:
    """Share of the first `count` images (all by default) that are classified right.

    `fast` computes in half precision where the processor has units for it; for search scores only.
    """
    model.eval()
    with on_processor(model) as here, torch.no_grad(), fast_arithmetic(fast):
        return _share_right(lambda x: model(here(x)).cpu(), images, count)


def onnx_accuracy(path: str | Path, images: Images, count: int | None = None) -> float:
    """The same for an ONNX file, run by ONNX Runtime in the batches it was exported for."""
    import onnxruntime as ort

    from pruner.export import as_read

    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    size = entry.shape[0]

    def run(x: Tensor) -> Tensor:
        filled = torch.cat([x, x[:1].expand(-len(x) % size, *x.shape[1:])])  # the last batch, full
        rows = [session.run(None, as_read(entry, part))[0] for part in filled.split(size)]
        return torch.cat([torch.from_numpy(row) for row in rows])[: len(x)]

    return _share_right(run, images, count)


def recalibrate(model: nn.Module, images: Images, count: int, fast: bool = False) -> None:
    """Replace BatchNorm's running statistics by those of `count` training images.

    A pruned network's activations have other statistics than the ones it was trained with; its
    accuracy before fine-tuning says little until they are measured anew.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    model.eval()
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over batches
        norm.train()
    with on_processor(model) as here, torch.no_grad(), fast_arithmetic(fast):
        for x, _ in batches(images, _even(min(count, len(images))), count):
            model(here(x))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


def _even(count: int) -> int:
    """A batch of at most BATCH: all batches count alike, so none may be a small rest."""
    return math.ceil(count / math.ceil(count / BATCH))


def _share_right(run: Callable[[Tensor], Tensor], images: Images, count: int | None) -> float:
    right = seen = 0
    for x, labels in batches(images, BATCH, count):
        right += int((run(x).argmax(dim=1) == labels).sum())
        seen += len(labels)
    return right / seen
