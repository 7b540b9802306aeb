"""A task's score: of a PyTorch model, of an exported one, and after recalibrating BatchNorm.

It is called accuracy here and in all files, whatever the task: a share of 1, more is better.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from pruner.data.images import Images, at_once, batches
from pruner.train.compute import fast_arithmetic, on_processor
from pruner.train.tasks.base import Answer, Detailed, Metric, VisionTask
from pruner.train.tasks.classification import CLASSIFIED

BATCH = 250


def accuracy(
    model: nn.Module,
    images: Images,
    count: int | None = None,
    fast: bool = False,
    task: VisionTask = CLASSIFIED,
) -> float:
    """The task's score of the first `count` images (all by default).

    `fast` computes in half precision where the processor has units for it; for search scores only.
    """
    return judged(model, images, count, fast, task).compute()


def judged(
    model: nn.Module,
    images: Images,
    count: int | None = None,
    fast: bool = False,
    task: VisionTask = CLASSIFIED,
) -> Metric:
    """The same as the task's metric, which may have more to tell (`details_of`)."""
    model.eval()
    with on_processor(model) as here, torch.no_grad(), fast_arithmetic(fast):
        return _judged(lambda x: _on_host(model(here(x))), images, count, task)


def score(
    model: nn.Module, images: Images, count: int | None = None, task: VisionTask = CLASSIFIED
) -> float:
    """The same in half precision, with BatchNorm by the statistics of the very images it judges.

    Of the batch of up to BATCH that an image comes in: as good as measuring them anew on others
    (`recalibrate`), for a pass less over the images. The model is left as it is.
    """
    count = len(images) if count is None else min(count, len(images))
    model.eval()
    with (
        on_processor(model) as here,
        torch.no_grad(),
        fast_arithmetic(),
        _statistics_of_the_batch(model),
    ):
        batch = _even(count, images)
        return _judged(lambda x: _on_host(model(here(x))), images, count, task, batch).compute()


@contextmanager
def _statistics_of_the_batch(model: nn.Module) -> Iterator[None]:
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    tracked = [norm.track_running_stats for norm in norms]
    for norm in norms:
        norm.track_running_stats = False
        norm.train()
    try:
        yield
    finally:
        for norm, before in zip(norms, tracked, strict=True):
            norm.track_running_stats = before
            norm.eval()


def onnx_accuracy(
    path: str | Path,
    images: Images,
    count: int | None = None,
    task: VisionTask = CLASSIFIED,
    library: str | Path | None = None,
) -> float:
    """The same for an ONNX file, run by ONNX Runtime in the batches it was exported for.

    `library`: of operators that the file uses.
    """
    return onnx_judged(path, images, count, task, library).compute()


def onnx_judged(
    path: str | Path,
    images: Images,
    count: int | None = None,
    task: VisionTask = CLASSIFIED,
    library: str | Path | None = None,
) -> Metric:
    """The same as the task's metric."""
    from pruner.train.export import as_read, opened

    session = opened(path, library)
    (entry,) = session.get_inputs()
    size = entry.shape[0]

    def run(x: Tensor) -> Answer:
        filled = torch.cat([x, x[:1].expand(-len(x) % size, *x.shape[1:])])  # the last batch, full
        rows = [session.run(None, as_read(entry, part)) for part in filled.split(size)]
        outputs = [torch.from_numpy(np.concatenate(parts)) for parts in zip(*rows, strict=True)]
        return task.as_answer([output[: len(x)] for output in outputs])

    return _judged(run, images, count, task)


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
        for x, _ in batches(images, _even(min(count, len(images)), images), count):
            model(here(x))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


def _even(count: int, images: Images) -> int:
    """As large a batch as there may be: all count alike, so none may be a small rest."""
    return math.ceil(count / math.ceil(count / at_once(images, BATCH)))


def _judged(
    run: Callable[[Tensor], Answer],
    images: Images,
    count: int | None,
    task: VisionTask,
    batch: int | None = None,
) -> Metric:
    metric = task.metric()
    for x, targets in batches(images, batch or at_once(images, BATCH), count):
        metric.update(run(x), targets)
    return metric


def details_of(metric: Metric) -> dict[str, float]:
    """What else a metric tells, by name; nothing where it has no more."""
    return metric.details() if isinstance(metric, Detailed) else {}


def _on_host(answer: Answer) -> Answer:
    return tree_map(lambda part: part.cpu() if isinstance(part, Tensor) else part, answer)
