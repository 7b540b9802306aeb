"""Coupled magnitude: how large everything is that goes with a channel.

Torch-Pruning's default (Fang et al. 2023, "DepGraph", arXiv 2301.12900, section 3.3): the squared
weights of all layers that write or read a channel, BatchNorm included, averaged over those layers
and divided by the group's mean, so that one threshold serves the whole network.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pruner.criteria.writers import filters
from pruner.graph.reader import Segment
from pruner.graph.surgery import mixes_channels
from pruner.graph.trace import Trace


def coupled_magnitude(trace: Trace) -> dict[str, Tensor]:
    """group → (width,), of mean 1."""
    found: dict[str, list[Tensor]] = {group.name: [] for group in trace.network.groups}
    modules = dict(trace.module.named_modules())
    for path, channels in trace.channels.items():
        module = modules[path]
        if module.weight is None:  # BatchNorm without a scale
            continue
        squares = filters(module) ** 2 if module.weight.dim() > 1 else module.weight.detach() ** 2
        _add(found, channels.writes, squares.reshape(len(squares), -1).sum(1))
        if mixes_channels(module):
            each_input = module.weight.detach().transpose(0, 1).flatten(1) ** 2
            _add(found, channels.reads, each_input.sum(1))
    means = {group: torch.stack(values).mean(0) for group, values in found.items()}
    return {group: value / value.mean().clamp_min(1e-12) for group, value in means.items()}


def _add(found: dict[str, list[Tensor]], segments: tuple[Segment, ...], values: Tensor) -> None:
    start = 0
    for segment in segments:
        size = segment.width * segment.repeat
        if segment.group:
            part = values[start : start + size].view(segment.width, segment.repeat)
            found[segment.group].append(part.sum(1))
        start += size
