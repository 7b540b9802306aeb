"""A check of surgery: a cut network answers as its parent that does not hear the other channels."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from lookup_tables.architecture import Architecture
from lookup_tables.network import Network
from pruner import TraceError
from pruner.graph.surgery import Kept, cut, mixes_channels, positions, weight_of
from pruner.graph.trace import Trace

TOLERANCE = 1e-4  # of the largest answer


def require_right_cuts(trace: Trace, times: int = 3) -> float:
    """Cut at random so many times, and return the largest difference; raises TraceError."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, *trace.network.input_shape, generator=generator)
    worst = max(
        largest_difference(trace, random_channels(trace.network, seed), images)
        for seed in range(times)
    )
    if not worst <= TOLERANCE:  # also refuses NaN
        raise TraceError(
            f"a cut {trace.network.name} differs from the dense network that does not hear the "
            f"other channels by {worst:.1e} of its largest answer. Please report this model"
        )
    return worst


def random_channels(network: Network, seed: int) -> Kept:
    """Some channels of every group, and at least one."""
    generator = torch.Generator().manual_seed(seed)
    kept = {}
    for group in network.groups:
        order = torch.randperm(group.width, generator=generator)
        width = int(torch.randint(1, group.width + 1, (), generator=generator))
        kept[group.name] = order[:width].sort().values
    return kept


def cut_to(trace: Trace, kept: Kept) -> fx.GraphModule:
    """The network of these channels, in evaluation mode."""
    widths = {group: len(channels) for group, channels in kept.items()}
    return cut(trace, Architecture(widths=widths), kept).eval()


def deaf(trace: Trace, kept: Kept) -> fx.GraphModule:
    """A copy of the dense network in which no layer hears the channels that are not kept.

    Where layers mix channels, the weights by which they read the others are 0.
    """
    model = copy.deepcopy(trace.module)
    modules = dict(model.named_modules())
    for path, channels in trace.channels.items():
        module, transposed = modules[path], isinstance(modules[path], nn.ConvTranspose2d)
        if mixes_channels(module) or (transposed and module.groups == 1):
            weight = weight_of(module).detach().movedim(0 if transposed else 1, 0)
            others = torch.ones(len(weight), dtype=torch.bool)
            others[positions(channels.reads, kept)] = False
            weight[others] = 0
    return model.eval()


def largest_difference(trace: Trace, kept: Kept, images: Tensor) -> float:
    """Between the answers of the two, relative to the largest answer. `images`: (n, C, H, W)."""
    with torch.inference_mode():
        pairs = zip(
            tree_leaves(cut_to(trace, kept)(images)),
            tree_leaves(deaf(trace, kept)(images)),
            strict=True,
        )
        return max(
            (float((one - other).abs().max() / other.abs().max().clamp_min(1e-12)))
            for one, other in pairs
            if isinstance(one, Tensor)
        )
