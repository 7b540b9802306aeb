"""Which weights of a sparse layer stay: criteria for blocks of output channels × one tap.

- *magnitude*: the block's squared weights (Han et al. 2015, "Learning both Weights and Connections
  for Efficient Neural Networks", arXiv 1506.02626, by blocks).
- *taylor*: the squared first-order change of the loss without each weight, as
  `pruner/criteria/taylor.py` does for channels (Molchanov et al. 2019, arXiv 1906.10771, equation
  8), added up in the block.
- *second_order*: by how much the layer's outputs would change, once all other weights were fitted
  anew: w² / [H⁻¹]ₜₜ with H = E x xᵀ of what the layer reads (Hassibi and Stork 1993, "Second order
  derivatives for network pruning: Optimal Brain Surgeon", equation 5; for a layer's own outputs,
  Dong et al. 2017, arXiv 1705.07565).

Deviations of *second_order*:
1. All weights are judged at once, on the layer as it was; the paper takes one after the other.
   What stays is fitted anew afterwards (`pruner/graph/compensation.py`).
2. Where H was not measured, of very large layers and with --no-reconstruct, all inputs count alike.
3. Outputs count by what a BatchNorm behind the layer multiplies them with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lookup_tables.registry import OwnSettings, Registry
from pruner.criteria.taylor import squared_changes
from pruner.data.images import Images
from pruner.graph.masks import Judge, Weighed
from pruner.graph.trace import Trace
from pruner.train.tasks.base import VisionTask

RIDGE = 1e-3  # of the mean diagonal


@dataclass(frozen=True)
class MaskCriterion:
    """A way to judge weights; `make(trace, images, task)` may look at training images."""

    name: str
    summary: str  # one line of --help
    make: Callable[[Trace, Images, VisionTask], Judge]
    settings: type[OwnSettings] = OwnSettings


def magnitude(layer: Weighed) -> Tensor:
    """w²: (filters, inputs)."""
    return layer.weight**2


def second_order(layer: Weighed) -> Tensor:
    """gain² w² / [H⁻¹]ₜₜ: (filters, inputs); gain² w² where H is not known."""
    gram = layer.gram
    if gram is None:
        return (layer.gain[:, None] * layer.weight) ** 2
    ridge = RIDGE * gram.diagonal().mean().clamp_min(1e-12)
    inverse = torch.linalg.inv(gram + ridge * torch.eye(len(gram)))
    return (layer.gain[:, None] * layer.weight) ** 2 / inverse.diagonal().clamp_min(1e-12)


def _taylor(trace: Trace, images: Images, task: VisionTask) -> Judge:
    squares: dict[str, Tensor] = {}  # measured when first asked for

    def judge(layer: Weighed) -> Tensor:
        if not squares:
            squares.update(squared_changes(trace, images, task))
        return squares[layer.path][layer.filters][:, layer.inputs]

    return judge


MASKS: Registry[MaskCriterion] = Registry(
    "mask",
    (
        MaskCriterion(
            "second_order",
            "the change of the layer's outputs after refitting",
            lambda trace, images, task: second_order,
        ),
        MaskCriterion("taylor", "the first-order change of the loss", _taylor),
        MaskCriterion(
            "magnitude", "the largest weights stay", lambda trace, images, task: magnitude
        ),
    ),
)
