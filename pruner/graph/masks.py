"""Masks: which weights of a sparse layer stay, in blocks of output channels × a tap.

A tap is an input channel at a place of the kernel, in INT8 four neighbouring ones. A layer's
density is the share of all its (block, tap) pairs that stay; the best ones of the whole layer do,
so that blocks may keep more or less than their share. What was left out is 0 in the weights, and
masks are read from them again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from lookup_tables.architecture import Architecture
from pruner.train.sparsity import BlockShape, places_of

Masks = dict[str, Tensor]  # layer → which of its weights stay, in their shape


@dataclass(frozen=True)
class Weighed:
    """A layer whose weights are to be judged, its outputs and inputs being those that stay."""

    path: str
    weight: Tensor  # (filters, inputs), refitted to the inputs
    gram: Tensor | None  # (inputs, inputs): E x xᵀ of what it reads; None where it is too large
    gain: Tensor  # (filters,): by how much a BatchNorm behind it multiplies its outputs
    filters: Tensor  # (filters,): which of the dense layer's they are
    inputs: Tensor  # (inputs,): which of the dense layer's they are, places of the kernel counted
    places: int  # of the kernel
    block: BlockShape  # in which its weights stay or go


class Judge(Protocol):
    """Scores weights: (filters, inputs), the higher the longer they stay; a block's add up."""

    def __call__(self, layer: Weighed) -> Tensor: ...


@dataclass(frozen=True)
class Thinning:
    """How weights are left out of some layers."""

    density: Mapping[str, float]  # layer → share that stays
    block: BlockShape
    judge: Judge

    @property
    def layers(self) -> list[str]:
        return [name for name, share in self.density.items() if share < 1]


def masks_of(model: nn.Module, architecture: Architecture, block: BlockShape) -> Masks:
    """The masks of an architecture's sparse layers, read from the zeros of its weights."""
    found = {}
    for name, share in architecture.density.items():
        if share < 1 and (layer := dict(model.named_modules()).get(name)) is not None:
            weight = layer.weight.detach()
            kept = block.sums((weight != 0).flatten(1).float(), places_of(weight)) > 0
            found[name] = block.whole(kept, weight)
    return found
