"""Dynamic filter selection with regeneration: which filters stay is decided while they train.

LAP (Neural Networks 152, 2022). The incomplete network is trained for a short phase. With w^t a
filter's weights at step t and m^t its layer's mean filter, the adjusted cosine similarity is
ACS = cos(w^t − m^t, w^(t+d) − m^(t+d)); a filter's activity is 1 − ACS, and the most active ones
adapt best to the filters that are missing. Pruned filters are masked, not deleted: they still
receive gradient, every d steps a share ρ of them may return in exchange for less active kept ones,
and ρ falls to 0. Masks act where channels are read: what a pruned channel would have written there
is 0, as in the network that is cut, and its gradient does not die in the activation before. It ends
at the pruned filter's own weights: passed on, it would teach the layers before for outputs that
nobody reads (docs/decisions/filters.md).

Deviations (no code of the paper could be found):
1. The schedule (`Phase`): a new ranking every `interval` of `steps`, ρ linearly to 0.
2. Where several layers write one group, their activities are put on one scale and added
   (`pruner/criteria/writers.py`).
3. The network becomes incomplete by and by, so that those ranked all have a say in it: filters of
   a first mask drift without being heard, and would look the most active.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lookup_tables.architecture import Architecture
from lookup_tables.network import Network
from lookup_tables.registry import OwnSettings
from pruner.criteria.base import Report
from pruner.criteria.writers import filters, of_groups
from pruner.data.images import Images
from pruner.graph.reader import Segment
from pruner.graph.surgery import Kept, cut, mixes_channels
from pruner.graph.trace import Trace
from pruner.train.compute import Here, fast_arithmetic, loss_scaler, on_processor, own_random_state
from pruner.train.finetune import in_full
from pruner.train.reading import ahead
from pruner.train.tasks.base import VisionTask
from pruner.train.tasks.classification import CLASSIFIED


@dataclass(frozen=True, slots=True)
class Phase:
    """How the incomplete network is trained, and what leaves and returns meanwhile.

    Every `interval` steps filters are ranked: the least active leave until, after the share
    `narrowed` of all steps, the widths asked for are reached. With `regenerated` 0 none returns.
    """

    steps: int = 400
    interval: int = 40
    batch: int = 128
    rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    narrowed: float = 0.5
    regenerated: float = 0.5  # share ρ of the pruned filters that may return, at the start


class DynamicSettings(OwnSettings):
    """What a user may set of the selection."""

    regenerate: float = Field(0.5, ge=0, le=1, description="Share of filters that may return.")


def select_as_set(
    trace: Trace,
    architecture: Architecture,
    images: Images,
    task: VisionTask,
    settings: DynamicSettings,
    seed: int,
    report: Report,
) -> tuple[Trace, Kept]:
    """`select`, by a run's settings."""
    phase = Phase(regenerated=settings.regenerate)
    return select(trace, architecture, images, phase, seed, report, task=task)


def select(
    trace: Trace,
    architecture: Architecture,
    images: Images,
    phase: Phase = Phase(),
    seed: int = 0,
    report: Report = lambda step, total, text: None,
    fixed: Kept | None = None,
    task: VisionTask = CLASSIFIED,
) -> tuple[Trace, Kept]:
    """Train the incomplete network; the trace with its weights, and the channels that stay.

    `fixed`: channels that stay whatever happens; then nothing is ranked.
    """
    network = trace.network
    masks = {name: torch.ones(group.width) for name, group in network.group.items()}
    if fixed is not None:
        masks = {name: _mask(len(mask), fixed[name]) for name, mask in masks.items()}
    masks = network.tied(masks, architecture.removed)
    blocks_only = Architecture(removed=architecture.removed)
    whole = {name: torch.arange(group.width) for name, group in network.group.items()}
    module = cut(trace, blocks_only, whole)
    present = replace(trace, module=module)
    with hide(present, masks), on_processor(module) as here, own_random_state():
        widths = None if fixed is not None else network.widths(architecture)
        apart = _apart(network, masks, architecture.removed)
        _train(present, apart, widths, images, phase, seed, here, report, task)
    trained = copy.deepcopy(trace.module)
    trained.load_state_dict(module.state_dict(), strict=False)  # removed blocks keep what they had
    final = {name: mask.nonzero().flatten() for name, mask in masks.items()}
    return replace(trace, module=trained.eval()), final


def _apart(
    network: Network, masks: Mapping[str, Tensor], removed: Collection[str]
) -> dict[str, Tensor]:
    """The masks without those that are another group's, because a plain layer is removed."""
    follow = {own for layer, (own, _) in network.ties.items() if layer in removed}
    return {name: mask for name, mask in masks.items() if name not in follow}


def _train(
    trace: Trace,
    masks: dict[str, Tensor],
    widths: Mapping[str, int] | None,
    images: Images,
    phase: Phase,
    seed: int,
    here: Here,
    report: Report,
    task: VisionTask,
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
    for step, (x, targets) in enumerate(coming):
        torch.manual_seed(seeds[step])  # dropout
        optimizer.zero_grad(set_to_none=True)
        with fast_arithmetic():
            answer = model(here(x))
        scaler.scale(task.loss(in_full(answer), here(targets))).backward()
        scaler.step(optimizer)
        scaler.update()
        done = step + 1
        if widths and (done % phase.interval == 0 or done == phase.steps):
            scores, left = activity(trace, before), 1 - done / phase.steps
            _narrow(masks, scores, widths, min(1.0, done / (phase.narrowed * phase.steps)))
            _exchange(masks, scores, phase.regenerated * left)
            before = _snapshot(trace)
        report(done, phase.steps, "choosing filters")


def activity(trace: Trace, before: Mapping[nn.Module, Tensor]) -> dict[str, Tensor]:
    """1 − ACS of every channel since the snapshot: group → (width,), 0 … 2 per writer."""

    def importance(layer: nn.Module, norm: nn.Module | None) -> Tensor:
        now, then = filters(layer), before[layer]
        similarity = F.cosine_similarity(now - now.mean(0), then - then.mean(0), dim=1)
        return (1 - similarity).clamp_min(0)

    return of_groups(trace, importance)


def _narrow(
    masks: dict[str, Tensor], scores: dict[str, Tensor], widths: Mapping[str, int], progress: float
) -> None:
    """The least active leave, until so much of the way to the widths is gone."""
    for name, mask in masks.items():
        kept = mask.nonzero().flatten()
        now = round(len(mask) - progress * (len(mask) - widths[name]))
        leaving = scores[name][kept].topk(max(0, len(kept) - now), largest=False).indices
        mask[kept[leaving]] = 0.0


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


@contextmanager
def hide(trace: Trace, masks: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, masked channels read as 0, everywhere, and only their own filters learn from it.

    Such a filter receives the gradient of its readers, which ends there: what comes before learns
    as it would in the network that is cut. `masks`: group → (width,) of 0 and 1; changes to them
    take effect at once. A layer that keeps channels apart passes a masked one on to a layer that
    mixes them, and there it is masked.
    """
    modules = dict(trace.module.named_modules())
    with ExitStack() as undo:
        for path, channels in trace.channels.items():
            if path not in modules or not mixes_channels(modules[path]):
                continue
            module = modules[path]
            if any(segment.group for segment in channels.reads):
                gate = _gate(channels.reads, masks)
                undo.callback(module.register_forward_pre_hook(gate).remove)
            if any(segment.group for segment in channels.writes):
                module.forward = partial(_write_apart, module, channels.writes, masks)
                undo.callback(delattr, module, "forward")
        yield


def _gate(reads: tuple[Segment, ...], masks: Mapping[str, Tensor]):
    def gate(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = inputs[0]
        shown = _joined(reads, masks).to(x)
        shown = shown if isinstance(module, nn.Linear) else shown[:, None, None]
        return (x * shown + (x - x.detach()) * (1 - shown), *inputs[1:])

    return gate


def _write_apart(
    module: nn.Conv2d | nn.Linear,
    writes: tuple[Segment, ...],
    masks: Mapping[str, Tensor],
    x: Tensor,
) -> Tensor:
    """The layer's outputs; through those of masked filters no gradient reaches its input."""
    shown = _joined(writes, masks).to(x.device)
    kept, masked = shown.nonzero().flatten(), (shown == 0).nonzero().flatten()
    if not len(masked):
        return _filtered(module, x, kept)
    parts = _filtered(module, x, kept), _filtered(module, x.detach(), masked)
    return torch.cat(parts, dim=1)[:, torch.cat([kept, masked]).argsort()]


def _filtered(module: nn.Conv2d | nn.Linear, x: Tensor, chosen: Tensor) -> Tensor:
    """What some of a layer's filters write."""
    weight = module.weight[chosen]
    bias = None if module.bias is None else module.bias[chosen]
    if isinstance(module, nn.Linear):
        return F.linear(x, weight, bias)
    return F.conv2d(x, weight, bias, module.stride, module.padding)


def _joined(segments: tuple[Segment, ...], masks: Mapping[str, Tensor]) -> Tensor:
    """The masks of a layer's features, in their order; 1 where nothing is masked."""
    parts = [masks[s.group] if s.group else torch.ones(s.width) for s in segments]
    return torch.cat([p.repeat_interleave(s.repeat) for p, s in zip(parts, segments, strict=True)])


def _mask(width: int, kept: Tensor) -> Tensor:
    mask = torch.zeros(width)
    mask[kept] = 1.0
    return mask
