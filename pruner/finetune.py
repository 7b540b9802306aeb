"""Training and fine-tuning: one loop, resumable at any step with the same result.

Everything random is drawn from (seed, epoch) or (seed, step), so a checkpoint needs weights,
optimizer and step, and no generator states.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruner.accuracy import channels_last, fast_arithmetic
from pruner.data import Images
from pruner.errors import RunError

SAVE_EVERY = 50  # steps


@dataclass(frozen=True, slots=True)
class Recipe:
    """SGD with Nesterov momentum, linear warm-up, cosine decay to 0.

    `distill` is the weight of the dense network's softened outputs in the loss (Hinton et al.
    2015, arXiv 1503.02531, section 2); it needs a teacher.
    """

    epochs: int = 2
    batch: int = 128
    rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warm_up: float = 0.1  # share of all steps, at most one epoch
    label_smoothing: float = 0.0
    distill: float = 0.0
    temperature: float = 4.0
    seed: int = 0


Report = Callable[[int, int, str], None]  # step, of how many, what now


def fine_tune(
    model: nn.Module,
    images: Images,
    recipe: Recipe,
    checkpoint: Path | None = None,
    teacher: nn.Module | None = None,
    report: Report = lambda step, total, text: None,
) -> None:
    """Train `model` in place; with a checkpoint path, continue from it and save to it."""
    model.to(memory_format=torch.channels_last)
    made_by = f"{recipe}, {len(images)} images"
    steps_each = max(1, len(images) // recipe.batch)
    total = recipe.epochs * steps_each
    optimizer = _optimizer(model, recipe)
    step = _restore(checkpoint, model, optimizer, made_by)
    smoothed_loss = None
    while step < total:
        epoch, position = divmod(step, steps_each)
        order = torch.randperm(len(images), generator=_generator(recipe.seed, epoch))
        indices = order[position * recipe.batch : (position + 1) * recipe.batch]
        x, labels = images.batch(indices, seed=_mix(recipe.seed, step))
        _set_rate(optimizer, recipe, step, total, steps_each)
        torch.manual_seed(_mix(recipe.seed, step))  # dropout
        loss = _step(model, teacher, optimizer, channels_last(x), labels, recipe)
        step += 1
        smoothed_loss = loss if smoothed_loss is None else 0.95 * smoothed_loss + 0.05 * loss
        if checkpoint and (step % SAVE_EVERY == 0 or step == total):
            _save(checkpoint, model, optimizer, step, made_by)
        report(step, total, f"epoch {epoch + 1} of {recipe.epochs}, loss {smoothed_loss:.3f}")
    model.eval()


def _step(model, teacher, optimizer, x: Tensor, labels: Tensor, recipe: Recipe) -> float:
    model.train()
    optimizer.zero_grad(set_to_none=True)
    with fast_arithmetic(True):
        outputs = model(x).float()
    loss = F.cross_entropy(outputs, labels, label_smoothing=recipe.label_smoothing)
    if teacher is not None and recipe.distill > 0:
        with torch.no_grad(), fast_arithmetic(True):
            targets = teacher(x).float()
        t = recipe.temperature
        soft = F.kl_div(
            F.log_softmax(outputs / t, dim=1),
            F.log_softmax(targets / t, dim=1),
            reduction="batchmean",
            log_target=True,
        )
        loss = (1 - recipe.distill) * loss + recipe.distill * t * t * soft
    loss.backward()
    optimizer.step()
    return float(loss.detach())


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


def _save(path: Path, model: nn.Module, optimizer, step: int, made_by: str) -> None:
    partial = path.with_suffix(".partial")
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    state |= {"step": step, "made_by": made_by}
    torch.save(state, partial)
    os.replace(partial, path)  # a killed save leaves the former checkpoint


def _restore(path: Path | None, model: nn.Module, optimizer, made_by: str) -> int:
    if path is None or not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    found = {name: value.shape for name, value in state["model"].items()}
    if state["made_by"] != made_by or found != shapes:
        raise RunError(
            f"{path} is of another training ({state['made_by']}; now {made_by}). Continue with the "
            "same model, data and options, or delete it"
        )
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"]
