"""VisionTask: what a model answers, how far that is from the truth, and what its score means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from lookup_tables.registry import OwnSettings
from pruner import DataError
from pruner.data.images import Data

Answer = Any  # what a model returns: a tensor, or a structure of them
Targets = Any  # what a data set says of a batch's images


class Metric(Protocol):
    """Adds up over batches; a share of 1, more is better."""

    def update(self, answer: Answer, targets: Targets) -> None: ...

    def compute(self) -> float: ...


@runtime_checkable
class Detailed(Protocol):
    """A metric that has more to tell of test images."""

    def details(self) -> dict[str, float]:
        """By name; shares of 1, as `compute` gives one."""


@runtime_checkable
class VisionTask(Protocol):
    """A task with its settings. Losses are means over a batch, as tensors of one number."""

    @property
    def settings(self) -> OwnSettings: ...

    def loss(self, answer: Answer, targets: Targets) -> Tensor:
        """What criteria and selections differentiate."""

    def training_loss(self, answer: Answer, targets: Targets) -> Tensor:
        """The same as training sees it, the task's own settings applied."""

    def distillation(self, answer: Answer, teacher: Answer, temperature: float) -> Tensor:
        """How far an answer is from the dense network's."""

    def metric(self) -> Metric:
        """A fresh one, for images that are judged."""

    def batch_score(self, answer: Answer, targets: Targets) -> float:
        """The metric of a training batch, or a quick stand-in for it."""

    def as_answer(self, outputs: list[Tensor]) -> Answer:
        """What the model would return, from an exported one's outputs in their order."""

    def check(self, model: nn.Module, shape: tuple[int, int, int], data: Data) -> None:
        """Raise DataError unless the model can be trained on such data."""


@runtime_checkable
class Pictured(Protocol):
    """A task whose answers can be looked at."""

    def pictured(self, images: Tensor, answers: Sequence[Answer], targets: Targets) -> bytes:
        """A PNG file: a row an image (n, 3, h, w); the truth, then the answers side by side."""


@dataclass(frozen=True)
class Task:
    """A kind of task; `make(settings)` gives one to train and judge by."""

    name: str
    summary: str  # one line of --help
    metric: str  # what its score is called
    make: Callable[[Any], VisionTask]
    settings: type[OwnSettings] = OwnSettings


def answer_to(model: nn.Module, shape: tuple[int, int, int], data: Data) -> Answer:
    """What a model made for images of `shape` answers to two of the data's.

    Raises DataError where it cannot read them.
    """
    if tuple(shape) != tuple(data.shape):
        expected, found = ("×".join(map(str, s)) for s in (shape, data.shape))
        raise DataError(
            f"the model expects {expected} images, but those of {data.name} are {found}. Choose a "
            "data set or a model that fits; your own file.py:function may return this model for "
            "any size"
        )
    try:
        with torch.inference_mode():
            return model.eval()(torch.zeros(2, *data.shape))
    except Exception as fault:  # whatever a user's modules raise on a wrong shape
        text = "×".join(map(str, data.shape))
        raise DataError(
            f"the model cannot read the {text} images of {data.name}: {fault}; choose a data set "
            "or a model that fits"
        ) from fault
