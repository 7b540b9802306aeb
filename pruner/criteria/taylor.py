"""Taylor: by how much the loss would change without a channel, to first order.

Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning" (arXiv 1906.10771),
equation 8, on gates: a gate g = 1 multiplies each channel, its importance is (∂E/∂g)². Where a
BatchNorm follows, ∂E/∂g = γ ∂E/∂γ + β ∂E/∂β; elsewhere it is the sum of w ∂E/∂w over the filter.

Deviations:
1. Squares are averaged over batches of BATCH images, not over single images.
2. A group's gates are those of all layers that write it; their importances are put on one scale and
   added (`pruner/criteria/writers.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pruner.criteria.writers import by_filter, of_groups
from pruner.data.images import Images, at_once, batches
from pruner.graph.surgery import weight_of
from pruner.graph.trace import Trace
from pruner.train.compute import on_processor
from pruner.train.sparsity import BlockShape, places_of
from pruner.train.tasks.base import VisionTask
from pruner.train.tasks.classification import CLASSIFIED

BATCH, IMAGES = 50, 2000
SINGLE = BlockShape(1)  # every weight for itself
PARTS = 100  # of a layer's weights


def taylor(trace: Trace, images: Images, task: VisionTask = CLASSIFIED) -> dict[str, Tensor]:
    """Mean squared first-order change of the loss, on one scale per writer: group → (width,)."""
    squares = _squares(trace, images, task)
    return of_groups(trace, lambda layer, norm: squares[layer])


def importance(trace: Trace, images: Images, task: VisionTask = CLASSIFIED) -> dict[str, Tensor]:
    """The same, comparable between groups: group → (width,), and block → (1,), by
    `Network.key_of`.

    A block is worth what the last of its layers that decide channels writes; a plain layer that
    decides none, as a depthwise one, what it writes.
    """
    squares = _squares(trace, images, task)
    found = {group.name: torch.zeros(group.width) for group in trace.network.groups}
    at = {}
    for layer in trace.network.layers:
        if layer.group is not None:
            at[layer.name] = squares[trace.module.get_submodule(layer.name)]
            found[layer.group] += at[layer.name]
    for removable in trace.network.blocks:
        inside = [at[name] for name in removable.layers if name in at]
        if trace.network.is_plain(removable):
            inside = [squares[trace.module.get_submodule(removable.output)]]
        found[trace.network.key_of(removable.name)] = (
            inside[-1].sum()[None] if inside else torch.zeros(1)
        )
    return found


def weights_importance(
    trace: Trace, images: Images, task: VisionTask, block: BlockShape
) -> dict[str, Tensor]:
    """What the weights of sparse layers are worth, on the scale of channels: layer → (100,).

    By blocks, added up over each hundredth of a layer's, the best first.
    """
    return {
        name: _hundredths(values)
        for name, values in squared_changes(trace, images, task, block).items()
    }


def squared_changes(
    trace: Trace, images: Images, task: VisionTask, block: BlockShape = SINGLE
) -> dict[str, Tensor]:
    """Σ (w ∂E/∂w)² over batches, w ∂E/∂w added up by blocks: layer → (blocks, taps)."""
    found: dict[str, Tensor] = {}
    _squares(trace, images, task, block, found)
    return found


def _hundredths(values: Tensor) -> Tensor:
    """(n,) → (100,): what equal parts of the values add up to, from the greatest on."""
    total = torch.cat([torch.zeros(1), values.flatten().sort(descending=True).values.cumsum(0)])
    at = torch.linspace(0, len(total) - 1, PARTS + 1)
    low = at.floor().long().clamp_max(len(total) - 2)
    between = total[low] + (at - low) * (total[low + 1] - total[low])
    return between.diff()


def _squares(
    trace: Trace,
    images: Images,
    task: VisionTask,
    block: BlockShape | None = None,
    thinned: dict[str, Tensor] | None = None,
) -> dict[nn.Module, Tensor]:
    """(∂E/∂g)² of every layer's channels, added up over batches.

    With a `block` the same of sparse layers' taps is put into `thinned`: layer → (blocks, taps).
    """
    model = trace.module.eval()
    squares: dict[nn.Module, Tensor] = {}
    parts = _writers(trace)
    sparse = trace.network.sparse_layers if block else ()
    with on_processor(model) as here, all_learn(model):
        for x, targets in batches(images, at_once(images, BATCH), IMAGES):
            model.zero_grad(set_to_none=True)
            task.loss(model(here(x)), here(targets)).backward()
            for layer, norm in parts:
                squares[layer] = squares.get(layer, 0) + gate_gradient(layer, norm).cpu() ** 2
            for name in sparse:
                weight = weight_of(model.get_submodule(name))
                assert weight.grad is not None
                assert block is not None
                assert thinned is not None
                change = (weight.detach() * weight.grad).flatten(1).cpu()
                sums = block.sums(change, places_of(weight))
                thinned[name] = thinned.get(name, 0) + sums**2
    model.zero_grad(set_to_none=True)
    return squares


@contextmanager
def all_learn(model: nn.Module) -> Iterator[None]:
    """Gradients of all parameters, frozen ones included."""
    frozen = [p for p in model.parameters() if not p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def _writers(trace: Trace) -> list[tuple[nn.Module, nn.Module | None]]:
    found = []
    plain = {b.output for b in trace.network.blocks if trace.network.is_plain(b)}
    for layer in trace.network.layers:
        if layer.group is not None or layer.name in plain:
            norm = trace.batch_norms.get(layer.name)
            module = trace.module.get_submodule(layer.name)
            found.append((module, trace.module.get_submodule(norm) if norm else None))
    return found


def gate_gradient(layer: nn.Module, norm: nn.Module | None) -> Tensor:
    """∂E/∂g of every channel: (width,). A BatchNorm without γ and β leaves it to the layer."""
    source = layer if norm is None or norm.weight is None else norm
    parts = [p for p in (source.weight, source.bias) if isinstance(p, Tensor)]
    total = sum(_slope(source, part) for part in parts)
    assert isinstance(total, Tensor)  # there are weights
    return total


def _slope(layer: nn.Module, parameter: Tensor) -> Tensor:
    """Sum of p ∂E/∂p over each filter: (width,)."""
    assert parameter.grad is not None
    change = parameter.detach() * parameter.grad
    return by_filter(layer, change).sum(dim=1) if change.dim() > 1 else change
