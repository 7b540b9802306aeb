"""Surgery: a traced model and an architecture become a really smaller model."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import TypeGuard

import torch
from torch import Tensor, fx, nn

from lookup_tables.architecture import Architecture
from lookup_tables.network import Block, Network
from pruner.graph.capture import first_call
from pruner.graph.reader import Segment, shape_of
from pruner.graph.trace import Trace
from pruner.train.weights import load_weights

Kept = dict[str, Tensor]  # group → ascending indices of the channels that stay


def keep_best(network: Network, architecture: Architecture, scores: dict[str, Tensor]) -> Kept:
    """The highest-scored channels of every group; raises ArchitectureError."""
    network.check(architecture)
    widths = network.widths(architecture)
    kept = {
        group: scores[group].topk(width).indices.sort().values for group, width in widths.items()
    }
    return network.tied(kept, architecture.removed)


def cut(trace: Trace, architecture: Architecture, kept: Kept) -> fx.GraphModule:
    """A smaller copy of the traced model; its parameters keep their names.

    `kept` may come from any ranking; `keep_best` makes one. Raises ArchitectureError.
    """
    trace.network.check(architecture)
    kept = trace.network.tied(kept, architecture.removed)
    model = copy.deepcopy(trace.module)
    _remove_blocks(model, trace, architecture)
    # Where a block took a layer's first call along, the same module is there under another path.
    present = {first_call(path): module for path, module in model.named_modules()}
    for path, channels in trace.channels.items():
        if path in present:
            reads = positions(channels.reads, kept)
            writes = positions(channels.writes, kept)
            _narrow(present[path], reads, writes)
    for path, (dim, segments) in trace.constants.items():
        owner, _, name = path.rpartition(".")
        if owner in dict(model.named_modules()) and hasattr(model.get_submodule(owner), name):
            _index(model.get_submodule(owner), name, positions(segments, kept), dim)
    return model


def shrink(trace: Trace, architecture: Architecture) -> fx.GraphModule:
    """The model of an architecture with arbitrary weights, to load trained ones into."""
    widths = trace.network.widths(architecture)
    return cut(trace, architecture, {group: torch.arange(n) for group, n in widths.items()})


def load_shrunk(trace: Trace, architecture: Architecture, weights: Path) -> fx.GraphModule:
    """The model of an architecture with weights from a file, in evaluation mode."""
    model = shrink(trace, architecture)
    load_weights(model, weights)
    model.eval()
    return model


def _remove_blocks(model: fx.GraphModule, trace: Trace, architecture: Architecture) -> None:
    nodes = {node.name: node for node in model.graph.nodes}
    order = {layer.name: number for number, layer in enumerate(trace.network.layers)}
    for block in sorted(trace.network.blocks, key=lambda each: order[each.output]):
        if block.name in architecture.removed:
            source, output = ends(trace, block, nodes)
            output.replace_all_uses_with(source)
            # A later block's input may be this output: follow the rewiring.
            nodes[output.name] = source
    if architecture.removed:
        model.graph.eliminate_dead_code()
        model.delete_all_unused_submodules()
        model.recompile()


def ends(trace: Trace, block: Block, nodes: Mapping[str, fx.Node]) -> tuple[fx.Node, fx.Node]:
    """What a block reads and what it hands on, of the `nodes` of one graph by their names."""
    source, output = (nodes[trace.node_of[name]] for name in (block.input, block.output))
    while shape_of(output) != shape_of(source):  # a flatten counts as its layer's output
        (output,) = output.all_input_nodes
    return source, output


def positions(segments: tuple[Segment, ...], kept: Kept) -> Tensor:
    """The channels (or features behind them) that stay, counted through all segments."""
    parts, start = [], 0
    for segment in segments:
        channels = kept[segment.group] if segment.group else torch.arange(segment.width)
        features = channels[:, None] * segment.repeat + torch.arange(segment.repeat)
        parts.append(start + features.flatten())
        start += segment.width * segment.repeat
    return torch.cat(parts)


def mixes_channels(module: nn.Module) -> TypeGuard[nn.Conv2d | nn.Linear]:
    """Whether each of its outputs reads many channels, as in all but grouped convolutions."""
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)


def weight_of(module: nn.Module) -> Tensor:
    """The weights of a module that has some."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight


def _narrow(module: nn.Module, reads: Tensor, writes: Tensor) -> None:
    if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
        for name in ("weight", "bias", "running_mean", "running_var"):
            _index(module, name, writes, 0)
        module.num_features = len(writes)
    elif isinstance(module, nn.Linear):
        _index(module, "weight", reads, 1)
        _index(module, "weight", writes, 0)
        _index(module, "bias", writes, 0)
        module.in_features, module.out_features = len(reads), len(writes)
    elif isinstance(module, nn.PReLU):
        _index(module, "weight", writes, 0)
        module.num_parameters = len(writes)
    elif isinstance(module, nn.ConvTranspose2d):
        if module.groups == 1:
            _index(module, "weight", writes, 1)
            _index(module, "weight", reads, 0)
        _index(module, "bias", writes, 0)
        module.in_channels, module.out_channels = len(reads), len(writes)
    elif isinstance(module, nn.Conv2d):
        depthwise = module.groups == module.in_channels == module.out_channels > 1
        if depthwise:
            module.groups = len(writes)
        elif module.groups == 1:  # grouped convolutions are never pruned
            _index(module, "weight", reads, 1)
        _index(module, "weight", writes, 0)
        _index(module, "bias", writes, 0)
        module.in_channels, module.out_channels = len(reads), len(writes)


def _index(module: nn.Module, name: str, positions: Tensor, dim: int) -> None:
    tensor = getattr(module, name)
    if tensor is None:
        return
    smaller = tensor.detach().index_select(dim, positions)
    if isinstance(tensor, nn.Parameter):
        setattr(module, name, nn.Parameter(smaller, requires_grad=tensor.requires_grad))
    else:
        setattr(module, name, smaller)
