"""Classification: one class an image. The score is the share of images that are right."""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lookup_tables.registry import OwnSettings
from pruner import DataError
from pruner.data.images import Data
from pruner.train.tasks.base import Answer, Task, answer_to


class ClassificationSettings(OwnSettings):
    """What a user may set of the loss."""

    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Label smoothing, a share of 1.")


class ShareRight:
    """The share of images whose class has the largest output."""

    def __init__(self) -> None:
        self._right = self._seen = 0

    def update(self, answer: Tensor, targets: Tensor) -> None:
        self._right += int((answer.argmax(dim=1) == targets).sum())
        self._seen += len(targets)

    def compute(self) -> float:
        return self._right / self._seen


class Classification:
    """Answers are (images, classes), targets (images,) class numbers."""

    def __init__(self, settings: ClassificationSettings | None = None) -> None:
        self.settings = settings or ClassificationSettings()

    def loss(self, answer: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(answer, targets)

    def training_loss(self, answer: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(answer, targets, label_smoothing=self.settings.label_smoothing)

    def distillation(self, answer: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Hinton et al. 2015 (arXiv 1503.02531), section 2: softened outputs, times T²."""
        soft = F.kl_div(
            F.log_softmax(answer / temperature, dim=1),
            F.log_softmax(teacher / temperature, dim=1),
            reduction="batchmean",
            log_target=True,
        )
        return temperature * temperature * soft

    def metric(self) -> ShareRight:
        return ShareRight()

    def batch_score(self, answer: Tensor, targets: Tensor) -> float:
        return float((answer.argmax(dim=1) == targets).float().mean())

    def as_answer(self, outputs: list[Tensor]) -> Answer:
        return outputs[0]

    def check(self, model: nn.Module, shape: tuple[int, int, int], data: Data) -> None:
        answer = answer_to(model, shape, data)
        if not isinstance(answer, Tensor) or answer.dim() != 2:
            found = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
            raise DataError(
                f"the model returns {found} for two images; classification expects one tensor of "
                "(images, classes)"
            )
        if answer.shape[1] != data.classes:
            raise DataError(
                f"the model has {answer.shape[1]} classes, but {data.name} has {data.classes}; "
                "choose a data set or a model that fits"
            )


CLASSIFIED = Classification()  # the task of who names none
CLASSIFICATION = Task(
    "classification",
    "one class an image",
    "accuracy",
    Classification,
    ClassificationSettings,
)
