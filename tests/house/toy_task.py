"""A task: the class or one of its neighbours is right, and the loss is of the expected class."""

import torch
from pydantic import Field

from lookup_tables.registry import OwnSettings
from pruner.train.tasks.base import Task


class Near(OwnSettings):
    """How near is right."""

    slack: int = Field(1, ge=0, description="Classes that a right answer may be away.")


class Share:
    """The share of images that are near enough."""

    def __init__(self, slack: int) -> None:
        self.slack, self.right, self.seen = slack, 0, 0

    def update(self, answer, targets):
        self.right += int(((answer.argmax(1) - targets).abs() <= self.slack).sum())
        self.seen += len(targets)

    def compute(self) -> float:
        return self.right / self.seen


class Ordinal:
    """Ten outputs, read as a distribution over ordered classes."""

    def __init__(self, settings: Near) -> None:
        self.settings = settings

    def loss(self, answer, targets):
        expected = answer.softmax(1) @ torch.arange(answer.shape[1], dtype=answer.dtype)
        return ((expected - targets) ** 2).mean()

    training_loss = loss

    def distillation(self, answer, teacher, temperature):
        return ((answer - teacher) ** 2).mean() / temperature

    def metric(self):
        return Share(self.settings.slack)

    def batch_score(self, answer, targets) -> float:
        share = self.metric()
        share.update(answer, targets)
        return share.compute()

    def as_answer(self, outputs):
        return outputs[0]

    def check(self, model, shape, data) -> None:
        assert tuple(shape) == tuple(data.shape)


TASK = Task("ordinal", "a class, or one near it", "share near enough", Ordinal, Near)
