"""How weights leave a network while it trains: all before it, step by step, or drawn towards 0.

- *held*: what was left out before training stays 0.
- *gradual*: the share that stays falls from 1 along a cubic curve, s = d + (1 − d)(1 − t/T)³ (Zhu
  and Gupta 2017, "To prune, or not to prune", arXiv 1710.01878, equation 1); what is left out then
  has the smallest norm, and what was left out stays so.
- *straight_through*: the same curve, but what was left out goes on learning with the gradient that
  a weight of 0 has, and comes back when its norm grows (Zhou et al. 2021, "Learning N:M
  Fine-grained Structured Sparse Neural Networks From Scratch", arXiv 2102.04010, equation 6).
- *admm*: weights W are drawn towards their nearest sparse ones Z by ρ/2 ‖W − Z + U‖², then they are
  cut there (Zhang et al. 2018, "A Systematic DNN Weight Pruning Framework using Alternating
  Direction Method of Multipliers", arXiv 1804.03294, equations 7 to 9).

In all of them weights go in blocks (`BlockShape`), each layer by its own density.

Deviations:
1. Of all but *held*, all of it happens in the first SHARE of the steps; the rest is training
   with the weights held at 0. The papers leave the number of epochs to the reader.
2. Of *admm*, Z and U are renewed UPDATES times, at equal distances; the paper does so every epoch.
3. Of *straight_through*, masks are renewed as often, not in every step; what is left out does not
   decay (equation 8), of which at usual rates a few percent would be gone at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SHARE = 0.5  # of all steps, until the last weight is left out
UPDATES = 50  # of masks, or of what weights are drawn to
RHO = 1e-3  # of the penalty, for a weight

Move = Callable[[Any], Any]  # to where the model trains


@dataclass(frozen=True)
class BlockShape:
    """Weights that stay or go together: of neighbouring output × neighbouring input channels.

    All are at one place of the kernel. The last blocks have what is left.
    """

    outputs: int
    inputs: int = 1

    def sums(self, values: Tensor, places: int) -> Tensor:
        """(filters, channels · places) added up by blocks: (blocks of filters, taps)."""
        by_place = values.reshape(len(values), -1, places)
        missing = -by_place.shape[1] % self.inputs, -len(values) % self.outputs
        filled = F.pad(by_place, (0, 0, 0, missing[0], 0, missing[1]))
        shape = (len(filled) // self.outputs, self.outputs, -1, self.inputs, places)
        return filled.reshape(shape).sum(dim=(1, 3)).flatten(1)

    def taps(self, inputs: int, places: int) -> Tensor:
        """(taps, inputs of each): which of channels · places inputs a tap has; -1 where less."""
        together = self.inputs * places
        filled = F.pad(torch.arange(inputs), (0, -inputs % together), value=-1)
        return filled.reshape(-1, self.inputs, places).transpose(1, 2).reshape(-1, self.inputs)

    def widened(self, kept: Tensor, inputs: int, places: int) -> Tensor:
        """(blocks of filters, taps) → (blocks of filters, inputs), of channels · places inputs."""
        by_place = kept.reshape(len(kept), -1, 1, places).expand(-1, -1, self.inputs, -1)
        return by_place.reshape(len(kept), -1)[:, :inputs]

    def rows(self, kept: Tensor, filters: int, inputs: int, places: int) -> Tensor:
        """(blocks of filters, taps) → (filters, inputs), of channels · places inputs."""
        wide = self.widened(kept, inputs, places)
        return wide.repeat_interleave(self.outputs, dim=0)[:filters]

    def whole(self, kept: Tensor, weight: Tensor) -> Tensor:
        """A mask of a weight's own shape, from its (blocks of filters, taps)."""
        rows = self.rows(kept, len(weight), weight[0].numel(), places_of(weight))
        return rows.reshape(weight.shape)

    def largest(self, weight: Tensor, share: float) -> Tensor:
        """Which weights the share of blocks with the largest norm has: 0 and 1, in their shape."""
        kept = keep_highest(self.sums(weight.flatten(1) ** 2, places_of(weight)), share)
        return self.whole(kept, weight).to(weight.dtype)


class Sparsity(Protocol):
    """What a training does about the weights that are to be 0."""

    def begin(self, model: nn.Module, move: Move, total: int) -> None:
        """Training of so many steps begins, or goes on; the model is where it trains."""

    def penalty(self) -> Tensor | None:
        """What is added to the loss."""

    def after_step(self, step: int) -> None:
        """So many steps are done: leave out what has to be."""

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what a checkpoint kept."""


class Held:
    """What was left out before training stays 0."""

    def __init__(self, masks: Mapping[str, Tensor]) -> None:
        """`masks`: layer → which of its weights stay, in their shape."""
        self.masks = dict(masks)

    def begin(self, model: nn.Module, move: Move, total: int) -> None:
        parameters = dict(model.named_parameters())
        self.weights = {name: parameters[f"{name}.weight"] for name in self.layers}
        self.masks = {name: move(mask.float()) for name, mask in self.masks.items()}
        self.total = total

    @property
    def layers(self) -> list[str]:
        return [*self.masks]

    def penalty(self) -> Tensor | None:
        return None

    def after_step(self, step: int) -> None:
        with torch.no_grad():  # whatever momentum and decay did to what is left out
            for name, mask in self.masks.items():
                self.weights[name].mul_(mask)

    def state(self) -> dict[str, Tensor]:
        return {f"mask {name}": mask.bool().cpu() for name, mask in self.masks.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        of_masks = {name.removeprefix("mask "): mask for name, mask in state.items()
                    if name.startswith("mask ")}  # fmt: skip
        for name, mask in of_masks.items():
            self.masks[name] = mask.to(self.weights[name].device).float()


class Gradual(Held):
    """Weights leave step by step, along a cubic curve."""

    def __init__(self, density: Mapping[str, float], block: BlockShape) -> None:
        """`density`: layer → the share that stays; `block`: weights that go together."""
        super().__init__({})
        self.density, self.block = dict(density), block

    @property
    def layers(self) -> list[str]:
        return [*self.density]

    def after_step(self, step: int) -> None:
        end = max(1, round(SHARE * self.total))
        every = max(1, end // UPDATES)
        if step <= end and (step % every == 0 or step == end):
            left = (1 - step / end) ** 3
            for name, final in self.density.items():
                share = final + (1 - final) * left
                self.masks[name] = self.block.largest(self.weights[name].detach(), share)
        super().after_step(step)


class StraightThrough(Gradual):
    """Weights leave along the same curve, and come back if they have learnt to matter."""

    def begin(self, model: nn.Module, move: Move, total: int) -> None:
        super().begin(model, move, total)
        self.all = {name: weight.detach().clone() for name, weight in self.weights.items()}
        self.used = {name: weight.clone() for name, weight in self.all.items()}

    def after_step(self, step: int) -> None:
        end = max(1, round(SHARE * self.total))
        with torch.no_grad():
            if step <= end:
                for name, weight in self.weights.items():
                    self.all[name] += weight - self.used[name]  # what the step has changed
                    weight.copy_(self.all[name])
            super().after_step(step)  # chooses among all, and leaves out the others
            if step <= end:
                for name, weight in self.weights.items():
                    self.used[name].copy_(weight)

    def state(self) -> dict[str, Tensor]:
        return super().state() | {f"all {name}": kept.cpu() for name, kept in self.all.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        super().restore(state)
        for name, weight in self.weights.items():
            self.all[name] = state[f"all {name}"].to(weight.device)
            self.used[name] = weight.detach().clone()


class Admm(Held):
    """Weights are drawn towards the nearest sparse ones, then cut there."""

    def __init__(self, density: Mapping[str, float], block: BlockShape, rho: float = RHO) -> None:
        """`density`: layer → the share that stays; `block`: weights that go together."""
        super().__init__({})
        self.density, self.block, self.rho = dict(density), block, rho
        self.target: dict[str, Tensor] = {}  # Z − U

    @property
    def layers(self) -> list[str]:
        return [*self.density]

    def begin(self, model: nn.Module, move: Move, total: int) -> None:
        super().begin(model, move, total)
        self.gap = {name: torch.zeros_like(weight) for name, weight in self.weights.items()}  # U
        self._renew()

    def penalty(self) -> Tensor | None:
        if self.masks:  # they are cut
            return None
        terms = [(w - self.target[name]).pow(2).sum() for name, w in self.weights.items()]
        return self.rho / 2 * torch.stack(terms).sum()

    def after_step(self, step: int) -> None:
        end = max(1, round(SHARE * self.total))
        every = max(1, end // UPDATES)
        if step == end:
            self.masks = {
                name: self.block.largest(weight.detach(), self.density[name])
                for name, weight in self.weights.items()
            }
        elif step < end and step % every == 0:
            self._renew()
        super().after_step(step)

    def _renew(self) -> None:
        """Z = the sparse weights nearest to W + U; U grows by what is left."""
        with torch.no_grad():
            for name, weight in self.weights.items():
                moved = weight + self.gap[name]
                sparse = moved * self.block.largest(moved, self.density[name])
                self.gap[name] = moved - sparse
                self.target[name] = sparse - self.gap[name]

    def state(self) -> dict[str, Tensor]:
        kept = {"gap": self.gap, "target": self.target}
        parts = {f"{k} {name}": t.cpu() for k, of in kept.items() for name, t in of.items()}
        return super().state() | parts

    def restore(self, state: Mapping[str, Tensor]) -> None:
        super().restore(state)
        for name, weight in self.weights.items():
            self.gap[name] = state[f"gap {name}"].to(weight.device)
            self.target[name] = state[f"target {name}"].to(weight.device)


def places_of(weight: Tensor) -> int:
    """Places of a convolution's kernel; 1 of a linear layer."""
    return weight[0, 0].numel()


def keep_highest(scores: Tensor, share: float) -> Tensor:
    """The share of highest scores: booleans of the scores' shape; at least one stays."""
    count = max(1, round(share * scores.numel()))
    kept = torch.zeros_like(scores, dtype=torch.bool).flatten()
    kept[scores.flatten().topk(count).indices] = True
    return kept.reshape(scores.shape)


# By the names that users choose from; what was left out before training is held.
SCHEDULES = {"gradual": Gradual, "straight_through": StraightThrough, "admm": Admm}
