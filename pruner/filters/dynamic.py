"""Dynamic filter selection with regeneration: which filters stay is decided while they train.

LAP (Neural Networks 152, 2022). The incomplete network is trained for a short phase. With w^t a
filter's weights at step t and m^t its layer's mean filter, the adjusted cosine similarity is
ACS = cos(w^t − m^t, w^(t+d) − m^(t+d)); a filter's activity is 1 − ACS, and the most active ones
adapt best to the filters that are missing. Pruned filters are masked, not deleted: they still
receive gradient, every d steps a share ρ of them may return in exchange for less active kept ones,
and ρ falls to 0. Masks act where channels are read: what a pruned channel would have written there
is 0, as in the network that is cut, and its gradient does not die in the activation before.

Deviations (no code of the paper could be found):
1. The schedule (`Phase`): a new ranking every `interval` of `steps`, ρ linearly to 0.
2. Where several layers write one group, their activities are put on one scale and added
   (`pruner/filters/writers.py`).
3. The first mask is that of the largest L1 norms, or of any other scores.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lookup_tables.network import Architecture
from pruner.compute import Here, fast_arithmetic, loss_scaler, on_processor
from pruner.data import Images
from pruner.filters.magnitude import l1_norm
from pruner.filters.writers import filters, of_groups
from pruner.graph_reader import Segment
from pruner.reading import ahead
from pruner.surgery import Kept, cut, keep_best, mixes_channels
from pruner.trace import Trace

Report = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class Phase:
    """How the incomplete network is trained.

    With `regenerated` 0 it is ranked once, at the end; without `ranked` its first mask stays.
    """

    steps: int = 400
    interval: int = 40
    batch: int = 128
    rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    regenerated: float = 0.5  # share ρ of the pruned filters that may return, at the start
    ranked: bool = True


def select(
    trace: Trace,
    architecture: Architecture,
    images: Images,
    phase: Phase = Phase(),
    seed: int = 0,
    report: Report = lambda step, total, text: None,
    first: Mapping[str, Tensor] | None = None,
) -> tuple[Trace, Kept]:
    """Train the incomplete network; the trace with its weights, and the channels that stay.

    `first`: scores that choose the first mask, group → (width,); without them L1 norms.
    """
    network = trace.network
    kept = keep_best(network, architecture, first or l1_norm(trace))
    masks = {name: _mask(group.width, kept[name]) for name, group in network.group.items()}
    blocks_only = Architecture(removed=architecture.removed)
    whole = {name: torch.arange(group.width) for name, group in network.group.items()}
    module = cut(trace, blocks_only, whole)
    present = replace(trace, module=module)
    hooks = hide(present, masks)
    try:
        with on_processor(module) as here:
            _train(present, masks, network.widths(architecture), images, phase, seed, here, report)
    finally:
        for hook in hooks:
            hook.remove()
    trained = copy.deepcopy(trace.module)
    trained.load_state_dict(module.state_dict(), strict=False)  # removed blocks keep what they had
    final = {name: mask.nonzero().flatten() for name, mask in masks.items()}
    return replace(trace, module=trained.eval()), final


def _train(
    trace: Trace, masks, widths, images: Images, phase: Phase, seed: int, here: Here, report
) -> None:
    model, scaler = trace.module, loss_scaler()
    optimizer = torch.optim.SGD(
        model.parameters(), phase.rate, phase.momentum, weight_decay=phase.weight_decay
    )
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(images), (phase.steps, phase.batch), generator=generator)
    seeds = range(seed * 1_000_003, seed * 1_000_003 + phase.steps)
    before = _snapshot(trace)
    model.train()
    coming = ahead(images, lambda step: (drawn[step], seeds[step]), range(phase.steps))
    for step, (x, labels) in enumerate(coming):
        torch.manual_seed(seeds[step])  # dropout
        optimizer.zero_grad(set_to_none=True)
        with fast_arithmetic():
            outputs = model(here(x))
        scaler.scale(F.cross_entropy(outputs.float(), here(labels))).backward()
        scaler.step(optimizer)
        scaler.update()
        done = step + 1
        if phase.ranked and phase.regenerated and done % phase.interval == 0:
            share = phase.regenerated * (1 - done / phase.steps)
            _exchange(masks, activity(trace, before), share)
            before = _snapshot(trace)
        report(done, phase.steps, "choosing filters")
    if phase.ranked and not phase.regenerated:
        scores = activity(trace, before)
        for name, mask in masks.items():
            mask.copy_(_mask(len(mask), scores[name].topk(widths[name]).indices))


def activity(trace: Trace, before: dict[str, Tensor]) -> dict[str, Tensor]:
    """1 − ACS of every channel since the snapshot: group → (width,), 0 … 2 per writer."""

    def score(layer: nn.Module, norm: nn.Module | None) -> Tensor:
        now, then = filters(layer), before[layer]
        similarity = F.cosine_similarity(now - now.mean(0), then - then.mean(0), dim=1)
        return (1 - similarity).clamp_min(0)

    return of_groups(trace, score)


def _exchange(masks: dict[str, Tensor], scores: dict[str, Tensor], share: float) -> None:
    """The most active of the pruned return for the least active of the kept, where more active."""
    for name, mask in masks.items():
        kept, pruned = mask.nonzero().flatten(), (mask == 0).nonzero().flatten()
        count = min(round(share * len(pruned)), len(kept))
        if count == 0:
            continue
        arriving = pruned[scores[name][pruned].topk(count).indices]
        leaving = kept[scores[name][kept].topk(count, largest=False).indices]
        # Best arrival against worst leaver, and so on.
        better = scores[name][arriving] > scores[name][leaving]
        mask[arriving[better]], mask[leaving[better]] = 1.0, 0.0


def _snapshot(trace: Trace) -> dict[nn.Module, Tensor]:
    present = {layer.name for layer in trace.network.layers if layer.group is not None}
    modules = dict(trace.module.named_modules())
    return {modules[n]: filters(modules[n]).clone() for n in present if n in modules}


def hide(trace: Trace, masks: Mapping[str, Tensor]) -> list[RemovableHandle]:
    """Masked channels read as 0, everywhere; they still receive the gradient of their readers.

    `masks`: group → (width,) of 0 and 1; changes to them take effect at once. A layer that keeps
    channels apart passes a masked one on to a layer that mixes them, and there it is masked.
    """
    modules = dict(trace.module.named_modules())
    hooks = []
    for path, channels in trace.channels.items():
        prunable = any(segment.group for segment in channels.reads)
        if prunable and path in modules and mixes_channels(modules[path]):
            gate = _gate(channels.reads, masks)
            hooks.append(modules[path].register_forward_pre_hook(gate))
    return hooks


def _gate(reads: tuple[Segment, ...], masks: Mapping[str, Tensor]):
    def gate(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = inputs[0]
        parts = [masks[s.group] if s.group else torch.ones(s.width) for s in reads]
        repeated = [p.repeat_interleave(s.repeat) for p, s in zip(parts, reads, strict=True)]
        shown = torch.cat(repeated).to(x)
        shown = shown if isinstance(module, nn.Linear) else shown[:, None, None]
        return (x * shown + (x - x.detach()) * (1 - shown), *inputs[1:])

    return gate


def _mask(width: int, kept: Tensor) -> Tensor:
    mask = torch.zeros(width)
    mask[kept] = 1.0
    return mask
