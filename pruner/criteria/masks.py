"""Which weights of a sparse layer stay: criteria for blocks of output channels × one tap.

- *magnitude*: the block's squared weights (Han et al. 2015, "Learning both Weights and Connections
  for Efficient Neural Networks", arXiv 1506.02626, by blocks).
- *taylor*: the squared first-order change of the loss without each weight, as
  `pruner/criteria/taylor.py` does for channels (Molchanov et al. 2019, arXiv 1906.10771, equation
  8), added up in the block.
- *second_order*: by how much the layer's outputs change when a tap goes and all other weights are
  fitted anew: w² / [H⁻¹]ₜₜ with H = E x xᵀ of what the layer reads (Hassibi and Stork 1993, "Second
  order derivatives for network pruning: Optimal Brain Surgeon", equation 5; for a layer's own
  outputs, Dong et al. 2017, arXiv 1705.07565). One tap after the other goes from every block of
  filters, weights and H⁻¹ follow, and those that go last are worth most (Frantar and Alistarh 2022,
  "Optimal Brain Compression", arXiv 2208.11580, section 4). Several inputs that go together are one
  tap: w [H⁻¹]ₜₜ⁻¹ wᵀ.

Deviations of *second_order*:
1. In each of STEPS steps as many taps go at once; the papers take one after the other.
2. Of layers with more than ALL_AT_ONCE inputs all weights are judged at once, with a greater ridge.
3. Where H was not measured, of very large layers and with --no-reconstruct, all inputs count alike.
4. Outputs count by what a BatchNorm behind the layer multiplies them with.
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

STEPS = 16  # in which all taps go
ALL_AT_ONCE = 2304  # inputs
RIDGE, GREAT_RIDGE = 1e-2, 1.0  # of the mean diagonal


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
    """What the outputs lose when weights go, the later the more: (filters, inputs)."""
    weight = layer.gain[:, None] * layer.weight
    if layer.gram is None:
        return weight**2
    if len(layer.gram) > ALL_AT_ONCE:
        inverse = _inverse(layer.gram, GREAT_RIDGE)
        return weight**2 / inverse.diagonal().clamp_min(1e-12)
    inverse, taps = _inverse(layer.gram, RIDGE), layer.block.taps(len(layer.gram), layer.places)
    scores = torch.zeros_like(weight)
    for rows in torch.arange(len(weight)).split(layer.block.outputs):
        worth = _in_turn(weight[rows], inverse, taps)
        for tap, value in zip(taps, worth, strict=True):
            inputs = tap[tap >= 0]
            scores[rows[:, None], inputs] = value / (len(rows) * len(inputs))
    return scores


def _in_turn(weight: Tensor, inverse: Tensor, taps: Tensor) -> Tensor:
    """(taps,): what every tap costs when it goes, no less than those that went before.

    `weight`: (filters, inputs) of one block, `inverse`: (inputs, inputs), `taps`: (taps, inputs
    of each, -1 where there are less).
    """
    weight, inverse, known = weight.clone(), inverse.clone(), taps >= 0
    worth, left = torch.zeros(len(taps)), torch.arange(len(taps))
    last = torch.zeros(())  # what the former step cost
    at_once = -(-len(taps) // STEPS)
    while len(left):
        costs = _costs(weight, inverse, taps[left], known[left])
        go = costs.topk(min(at_once, len(left)), largest=False).indices
        worth[left[go]] = costs[go].clamp_min(last)
        last = worth[left[go]].amax()
        inputs = taps[left[go]][known[left[go]]]
        left = left[~torch.isin(torch.arange(len(left)), go)]
        follow = torch.linalg.solve(inverse[inputs][:, inputs], inverse[inputs])
        weight -= weight[:, inputs] @ follow
        inverse -= inverse[:, inputs] @ follow
    return worth


def _costs(weight: Tensor, inverse: Tensor, taps: Tensor, known: Tensor) -> Tensor:
    """(taps,): Σ w [H⁻¹]⁻¹ wᵀ over a block's filters."""
    own = inverse[taps[:, :, None], taps[:, None, :]]  # what is not known is taken out again
    both = known[:, :, None] & known[:, None, :]
    own = torch.where(both, own, torch.eye(taps.shape[1]))
    parts = (weight[:, taps] * known).permute(1, 2, 0)  # (taps, inputs, filters)
    return (parts * torch.linalg.solve(own, parts)).sum(dim=(1, 2))


def _inverse(gram: Tensor, ridge: float) -> Tensor:
    """(inputs, inputs); `ridge`: of the mean diagonal."""
    added = ridge * gram.diagonal().mean().clamp_min(1e-12)
    return torch.linalg.inv(gram + added * torch.eye(len(gram)))


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
