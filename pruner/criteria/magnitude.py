"""Rankings that read the weights alone.

`l1_norm`: Li et al. 2017 (arXiv 1608.08710), section 3.1; `l2_norm`: the same with squares.
`batch_norm_scale`: Liu et al. 2017, "Network Slimming" (arXiv 1708.06519), section 3.

Deviations:
1. Where several layers write one group, their scores are put on one scale and added
   (`pruner/criteria/writers.py`).
"""

from __future__ import annotations

from torch import Tensor, nn

from pruner.criteria.writers import filters, of_groups
from pruner.data.images import Images
from pruner.graph.trace import Trace
from pruner.train.tasks.base import VisionTask


def l1_norm(
    trace: Trace, images: Images | None = None, task: VisionTask | None = None
) -> dict[str, Tensor]:
    """Sum of a filter's absolute weights, BatchNorm's scale not counted: group → (width,)."""
    return of_groups(trace, lambda layer, norm: filters(layer).abs().sum(dim=1))


def l2_norm(
    trace: Trace, images: Images | None = None, task: VisionTask | None = None
) -> dict[str, Tensor]:
    """Euclidean norm of a filter's weights: group → (width,)."""
    return of_groups(trace, lambda layer, norm: filters(layer).norm(dim=1))


def batch_norm_scale(
    trace: Trace, images: Images | None = None, task: VisionTask | None = None
) -> dict[str, Tensor]:
    """|γ| of the BatchNorm behind a filter; its L1 norm where there is none: group → (width,)."""

    def importance(layer: nn.Module, norm: nn.BatchNorm2d | None) -> Tensor:
        if norm is None or norm.weight is None:
            return filters(layer).abs().sum(dim=1)
        return norm.weight.detach().abs()

    return of_groups(trace, importance)
