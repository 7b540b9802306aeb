"""Scores of a group's channels, added up over the layers that write them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pruner.graph.surgery import weight_of
from pruner.graph.trace import Trace

OfLayer = Callable[[nn.Module, nn.BatchNorm2d | None], Tensor]  # → (width,), not negative


def of_groups(trace: Trace, of_layer: OfLayer) -> dict[str, Tensor]:
    """group → (width,): every writer's scores divided by their mean, then added.

    Without that division a layer with large weights would decide for all that share its channels.
    """
    scores = {group.name: torch.zeros(group.width) for group in trace.network.groups}
    modules = dict(trace.module.named_modules())
    for layer in trace.network.layers:
        if layer.group is None or layer.name not in modules:  # removed with its block
            continue
        values = of_layer(modules[layer.name], modules.get(trace.batch_norms.get(layer.name)))
        scores[layer.group] += (values / values.mean().clamp_min(1e-12)).cpu()
    return scores


def filters(layer: nn.Module) -> Tensor:
    """The layer's weights as (filters, weights of one)."""
    return by_filter(layer, weight_of(layer).detach())


def by_filter(layer: nn.Module, of_weights: Tensor) -> Tensor:
    """Something of each of the layer's weights, in their shape, as (filters, weights of one)."""
    if isinstance(layer, nn.ConvTranspose2d) and layer.groups == 1:  # its filters lie second
        of_weights = of_weights.transpose(0, 1)
    return of_weights.flatten(1)
