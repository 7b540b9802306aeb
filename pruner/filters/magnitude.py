"""Rankings that read the weights alone.

`l1_norm`: Li et al. 2017 (arXiv 1608.08710), section 3.1. `batch_norm_scale`: Liu et al. 2017,
"Network Slimming" (arXiv 1708.06519), section 3.

Deviations:
1. Where several layers write one group, each layer's scores are divided by their mean before they
   are added, so that a layer with large weights does not decide for the others.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pruner.trace import Trace


def l1_norm(trace: Trace) -> dict[str, Tensor]:
    """Sum of a filter's absolute weights, BatchNorm's scale not counted: group → (width,)."""
    return _score(trace, lambda layer, norm: layer.weight.detach().abs().flatten(1).sum(dim=1))


def batch_norm_scale(trace: Trace) -> dict[str, Tensor]:
    """|γ| of the BatchNorm behind a filter; its L1 norm where there is none: group → (width,)."""

    def score(layer: nn.Module, norm: nn.BatchNorm2d | None) -> Tensor:
        if norm is None:
            return layer.weight.detach().abs().flatten(1).sum(dim=1)
        return norm.weight.detach().abs()

    return _score(trace, score)


def _score(trace: Trace, of_layer) -> dict[str, Tensor]:
    scores = {group.name: torch.zeros(group.width) for group in trace.network.groups}
    for layer in trace.network.layers:
        if layer.group is None:
            continue
        norm = trace.batch_norms.get(layer.name)
        values = of_layer(
            trace.module.get_submodule(layer.name),
            trace.module.get_submodule(norm) if norm else None,
        )
        scores[layer.group] += values / values.mean().clamp_min(1e-12)
    return scores
