"""Training and fine-tuning: one loop, resumable at any step with the same result.

Everything random is drawn from (seed, epoch) or (seed, step), so a checkpoint needs weights,
optimizer and step, and no generator states.
"""

from __future__ import annotations

import copy
import io
import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from lookup_tables.storage.files import write_whole
from pruner import RunError
from pruner.data.images import Images
from pruner.train.accuracy import accuracy
from pruner.train.compute import (
    Here,
    compiled,
    fast_arithmetic,
    loss_scaler,
    on_processor,
    own_random_state,
)
from pruner.train.reading import ahead
from pruner.train.sparsity import Sparsity
from pruner.train.tasks.base import Answer, Targets, VisionTask
from pruner.train.tasks.classification import CLASSIFIED
from pruner.train.weights import UNREADABLE

SAVE_EVERY = 50  # steps
COMPILED_FROM = 5e11  # numbers that layers write: shorter trainings end before compiling pays


@dataclass(frozen=True, slots=True)
class Recipe:
    """SGD with Nesterov momentum, linear warm-up, cosine decay to 0.

    `distill` is the weight of the dense network's softened outputs in the loss (Hinton et al.
    2015, arXiv 1503.02531, section 2); it needs a teacher. With a `patience`, training ends after
    so many epochs without a better accuracy on held-out images, at the best epoch's weights.
    """

    epochs: int = 2
    batch: int = 128
    rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warm_up: float = 0.1  # share of all steps, at most one epoch
    distill: float = 0.0
    temperature: float = 4.0
    patience: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises RunError for what no training can do."""
        if not self.rate > 0:
            raise RunError(f"learning rate {self.rate}: expected more than 0")

    def told(self, task: VisionTask) -> str:
        """In words that identify a training, the task's own settings included."""
        words = asdict(self)
        own = task.settings.model_dump()
        names = [*words]
        names[names.index("distill") : names.index("distill")] = own
        return ", ".join(f"{name} {(words | own)[name]}" for name in names)


Report = Callable[[int, int, str], None]  # step, of how many, what now


@dataclass(slots=True)
class Epoch:
    """What training saw in one pass: means over its steps, each before its own update.

    `loss` is the whole of it, distillation included; `accuracy` is of augmented training images,
    and `held_out` is known where a patience asks for it.
    """

    number: int
    steps: int = 0
    loss: float = 0.0
    accuracy: float = 0.0
    seconds: float = 0.0
    held_out: float | None = None

    def add(self, loss: float, accuracy: float, seconds: float) -> None:
        """One more step."""
        self.steps += 1
        self.loss += (loss - self.loss) / self.steps
        self.accuracy += (accuracy - self.accuracy) / self.steps
        self.seconds += seconds


@dataclass(slots=True)
class _Plateau:
    """The best epoch on held-out images so far."""

    accuracy: float = -1.0
    waited: int = 0  # epochs since
    weights: dict[str, Tensor] = field(default_factory=dict)

    def see(self, model: nn.Module, now: float) -> None:
        self.waited += 1
        if now > self.accuracy:
            self.accuracy, self.waited = now, 0
            self.weights = copy.deepcopy(model.state_dict())


def fine_tune(
    model: nn.Module,
    images: Images,
    recipe: Recipe,
    checkpoint: Path | None = None,
    teacher: nn.Module | None = None,
    report: Report = lambda step, total, text: None,
    held_out: Images | None = None,
    begun_from: str = "",
    task: VisionTask = CLASSIFIED,
    sparsity: Sparsity | None = None,
) -> list[Epoch]:
    """Train `model` in place; with a checkpoint path, continue from it and save to it.

    Returns what every epoch saw, those before an interruption included. `held_out` is needed for a
    recipe with patience. A checkpoint knows recipe, number of images and shapes of weights, and
    what the training was `begun_from`; raises RunError if it is of another one. `sparsity`: what
    is done about weights that are to be 0.
    """
    if recipe.patience and held_out is None:
        raise RunError("patience needs held-out images; leave it at 0")
    with on_processor(model, teacher) as here, own_random_state():
        training = _Training(
            model, images, recipe, checkpoint, teacher, here, begun_from, task, sparsity
        )
        training.run(report, held_out)
    model.eval()
    return training.epochs


class _Training:
    """One call of `fine_tune`."""

    def __init__(
        self,
        model: nn.Module,
        images: Images,
        recipe: Recipe,
        checkpoint: Path | None,
        teacher: nn.Module | None,
        here: Here,
        begun_from: str,
        task: VisionTask,
        sparsity: Sparsity | None,
    ) -> None:
        self.model, self.images, self.recipe = model, images, recipe
        self.begun_from, self.task = begun_from, task
        self.checkpoint, self.here = checkpoint, here
        self.steps_each = max(1, len(images) // recipe.batch)
        self.total = recipe.epochs * self.steps_each
        self.optimizer, self.scaler = _optimizer(model, recipe), loss_scaler()
        self.sparsity = sparsity
        if sparsity is not None:
            sparsity.begin(model, here, self.total)
        self.teacher = teacher
        self.run_model: Callable[[Tensor], Answer] = model
        self.run_teacher: Callable[[Tensor], Answer] | None = teacher
        self.is_prepared = False
        self.plateau = _Plateau()
        self.epochs: list[Epoch] = []
        self._shuffled: tuple[int, Tensor] | None = None
        self.step = self._restore()

    def run(self, report: Report, held_out: Images | None) -> None:
        smoothed_loss = None
        coming = ahead(self.images, self._draw, range(self.step, self.total))
        while self.step < self.total and not self._over():
            epoch, start_s = self._epoch(), time.perf_counter()
            x, targets = next(coming)
            if not self.is_prepared:
                self._prepare(x[:1])
            loss, right = self._learn(x, targets)
            epoch.add(loss, right, time.perf_counter() - start_s)
            self.step += 1
            smoothed_loss = loss if smoothed_loss is None else 0.95 * smoothed_loss + 0.05 * loss
            ended = self.step % self.steps_each == 0
            if ended and self.recipe.patience:
                assert held_out is not None  # `fine_tune` asks for it
                epoch.held_out = accuracy(self.model, held_out, fast=True, task=self.task)
                self.plateau.see(self.model, epoch.held_out)
            if self.checkpoint and (self.step % SAVE_EVERY == 0 or self.step == self.total):
                self._save(self.checkpoint)
            text = f"epoch {epoch.number} of {self.recipe.epochs}, loss {smoothed_loss:.3f}"
            report(self.step, self.total, text)
        if self.plateau.weights:
            self.model.load_state_dict(self.plateau.weights)

    def _prepare(self, image: Tensor) -> None:
        """Compile model and teacher where the training is long for an image of this size."""
        self.is_prepared = True
        written = _written(self.model, self.here(image))
        if self.total * self.recipe.batch * written >= COMPILED_FROM:
            self.run_model = compiled(self.model)
            if self.teacher is not None:
                self.run_teacher = compiled(self.teacher, frozen=True)

    def _over(self) -> bool:
        return 0 < self.recipe.patience <= self.plateau.waited

    def _epoch(self) -> Epoch:
        """The one that the next step belongs to."""
        number = self.step // self.steps_each + 1
        if not self.epochs or self.epochs[-1].number != number:
            self.epochs.append(Epoch(number))
        return self.epochs[-1]

    def _draw(self, step: int) -> tuple[Tensor, int]:
        """Which images a step learns from, and the seed of their augmentation."""
        epoch, position = divmod(step, self.steps_each)
        first = position * self.recipe.batch
        return self._order(epoch)[first : first + self.recipe.batch], _mix(self.recipe.seed, step)

    def _learn(self, x: Tensor, targets: Targets) -> tuple[float, float]:
        """One step; the loss before it, and the score of its images."""
        recipe, here = self.recipe, self.here
        x, targets = here(x), here(targets)
        _set_rate(self.optimizer, recipe, self.step, self.total, self.steps_each)
        torch.manual_seed(_mix(recipe.seed, self.step))  # dropout
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        with fast_arithmetic():
            answer = self.run_model(x)
        loss = self._loss(in_full(answer), x, targets)
        penalty = self.sparsity.penalty() if self.sparsity is not None else None
        if penalty is not None:
            loss = loss + penalty
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.sparsity is not None:
            self.sparsity.after_step(self.step + 1)
        right = self.task.batch_score(tree_map(_detached, answer), targets)
        return float(loss.detach()), right

    def _order(self, epoch: int) -> Tensor:
        """The epoch's order of images."""
        if self._shuffled is None or self._shuffled[0] != epoch:
            generator = _generator(self.recipe.seed, epoch)
            self._shuffled = epoch, torch.randperm(len(self.images), generator=generator)
        return self._shuffled[1]

    def _loss(self, answer: Answer, x: Tensor, targets: Targets) -> Tensor:
        recipe = self.recipe
        loss = self.task.training_loss(answer, targets)
        if self.run_teacher is None or recipe.distill == 0:
            return loss
        with torch.no_grad(), fast_arithmetic():
            taught = self.run_teacher(x)
        soft = self.task.distillation(answer, in_full(taught), recipe.temperature)
        return (1 - recipe.distill) * loss + recipe.distill * soft

    @property
    def _made_by(self) -> str:
        origin = f", {self.begun_from}" if self.begun_from else ""
        return f"{self.recipe.told(self.task)}, {len(self.images)} images{origin}"

    def _save(self, checkpoint: Path) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "plateau": {name: getattr(self.plateau, name) for name in _Plateau.__slots__},
            "epochs": [asdict(epoch) for epoch in self.epochs],
            "step": self.step,
            "sparsity": self.sparsity.state() if self.sparsity is not None else {},
            "made_by": self._made_by,
        }
        content = io.BytesIO()  # PyTorch's own file writer gives no OSError for a full disk
        torch.save(state, content)
        write_whole(checkpoint, content.getbuffer())

    def _restore(self) -> int:
        """Continue from the checkpoint if there is one; the step that comes next."""
        if self.checkpoint is None or not self.checkpoint.exists():
            return 0
        try:
            state = torch.load(self.checkpoint, weights_only=True, map_location="cpu")
        except UNREADABLE:
            raise RunError(
                f"{self.checkpoint} is damaged; delete it to restart this training"
            ) from None
        if not isinstance(state, dict) or not {"model", "made_by", "step"} <= state.keys():
            raise RunError(
                f"{self.checkpoint} is not a training's checkpoint, but this training must write "
                "one there. Move it away, or choose another --out"
            )
        shapes = {name: value.shape for name, value in self.model.state_dict().items()}
        found = {name: value.shape for name, value in state["model"].items()}
        if state["made_by"] != self._made_by or found != shapes:
            raise RunError(
                f"{self.checkpoint} comes from another training ({state['made_by']}; now "
                f"{self._made_by}). Continue with the same model, data and options, or delete it"
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:  # empty where the former sessions needed none
            self.scaler.load_state_dict(state["scaler"])
        if self.sparsity is not None:
            self.sparsity.restore(state.get("sparsity", {}))
        self.plateau = _Plateau(**state["plateau"])
        self.epochs = [Epoch(**epoch) for epoch in state.get("epochs", [])]  # none in former ones
        return state["step"]


def _written(model: nn.Module, image: Tensor) -> int:
    """How many numbers a model's layers write for an image (1, c, h, w): its training waits for
    that on CPU."""
    written = 0

    def count(layer: nn.Module, inputs: object, output: object) -> None:
        nonlocal written
        written += output.numel() if isinstance(output, Tensor) else 0

    layers = [layer for layer in model.modules() if not any(layer.children())]
    with ExitStack() as hooks, torch.no_grad():
        for layer in layers:
            hooks.callback(layer.register_forward_hook(count).remove)
        model.eval()(image)
    return written


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """Weight decay on weights only, not on BatchNorm and biases."""
    weights = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    groups = [
        {"params": weights, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=recipe.rate, momentum=recipe.momentum, nesterov=True)


def _set_rate(optimizer, recipe: Recipe, step: int, total: int, steps_each: int) -> None:
    """Linear warm-up, then half a cosine (Loshchilov and Hutter 2017, arXiv 1608.03983, eq. 5)."""
    warm_up = max(1, min(int(recipe.warm_up * total), steps_each))
    if step < warm_up:
        rate = recipe.rate * (step + 1) / warm_up
    else:
        rate = recipe.rate * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / (total - warm_up)))
    for group in optimizer.param_groups:
        group["lr"] = rate


def _mix(seed: int, step: int) -> int:
    return (seed * 1_000_003 + step) % 2**31


def _generator(seed: int, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed(_mix(seed, 7_919 * (epoch + 1)))


def in_full(answer: Answer) -> Answer:
    """In single precision, where losses are computed."""
    return tree_map(lambda part: part.float() if isinstance(part, Tensor) else part, answer)


def _detached(part: Tensor) -> Tensor:
    return part.detach() if isinstance(part, Tensor) else part
