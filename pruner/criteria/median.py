"""FPGM: filters near the geometric median are the ones the others can replace.

He et al. 2019, "Filter Pruning via Geometric Median" (arXiv 1811.00250), equation 8: a filter's
score is the sum of its distances to all filters of its layer.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pruner.criteria.writers import filters, of_groups
from pruner.data.images import Images
from pruner.graph.trace import Trace
from pruner.train.tasks.base import VisionTask


def geometric_median(
    trace: Trace, images: Images | None = None, task: VisionTask | None = None
) -> dict[str, Tensor]:
    """Sum of distances to the layer's other filters: group → (width,)."""

    def importance(layer, norm) -> Tensor:
        weights = filters(layer)
        return torch.cdist(weights, weights).sum(dim=1)

    return of_groups(trace, importance)
