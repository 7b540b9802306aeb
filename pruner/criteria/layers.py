"""Layer criteria: what a removable block, or a plain layer, is worth; the lowest go first.

LayerPrune (Elkerdawy et al. 2020, "To Filter Prune, or to Layer Prune, That Is The Question",
arXiv 2007.05667) scores filters, and a layer by the mean over its filters; a block by
the mean over the convolutions inside of it. Imprinting judges what a layer hands on instead, and
the ensemble adds up the ranks of all others.

    weight_magnitude     Σ w²                                        of a filter's weights
    weight_taylor        Σ (w ∂E/∂w)²                                added up over batches
    gate_taylor          (∂E/∂g)² of a gate g = 1 on every channel   added up over batches
    feature_map_taylor   |mean over places of a ∂E/∂a|               added up over images, a layer's
                         filters divided by their Euclidean norm (Molchanov et al. 2017, "Pruning
                         Convolutional Neural Networks for Resource Efficient Inference", arXiv
                         1611.06440)
    batch_norm           |γ|
    imprinting           accuracy by class means behind the block less that before it

Channels behind a BatchNorm are gated, and their maps looked at, behind it.

Deviations:
1. Sums run over IMAGES training images in batches of BATCH, not over an epoch.
2. Imprinting forms class means of every second batch and judges them by the others, by the cosine
   of the angle to them; the paper does not say.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from scipy.stats import rankdata
from torch import Tensor, fx, nn

from lookup_tables.layer import WEIGHTED
from lookup_tables.network import Block
from lookup_tables.registry import Registry
from pruner import RunError, SearchError
from pruner.criteria.taylor import all_learn, gate_gradient
from pruner.criteria.writers import by_filter, filters
from pruner.data.images import Images, Targets, at_once, batches
from pruner.graph.surgery import ends, weight_of
from pruner.graph.trace import Trace
from pruner.train.compute import on_processor
from pruner.train.tasks.base import VisionTask

BATCH, IMAGES = 50, 2000
FEATURES = 512  # numbers of each layer that class means are formed of, about

Scores = dict[str, float]  # block → its score
Channels = dict[str, Tensor]  # layer → its filters' scores, (filters,)


class ChannelScore(Protocol):
    """Scores of all filters of some layers: layer → (filters,)."""

    def __call__(
        self, trace: Trace, layers: Collection[str], images: Images, task: VisionTask
    ) -> Channels: ...


class BlockScore(Protocol):
    """Scores of some blocks: block → score."""

    def __call__(
        self, trace: Trace, blocks: Collection[Block], images: Images, task: VisionTask
    ) -> Scores: ...


@dataclass(frozen=True)
class LayerCriterion:
    """Scores layers by their filters, or as `whole` blocks."""

    name: str
    summary: str  # one line of --help
    channels: ChannelScore | None = None
    whole: BlockScore | None = None
    needs_images: bool = True

    def __call__(
        self,
        trace: Trace,
        images: Images | None,
        task: VisionTask,
        removed: Collection[str] = (),
    ) -> Scores:
        """Of every removable block that is left, what it is worth: block → score.

        `removed`: blocks that the traced module lacks already. Raises RunError without images that
        it needs, SearchError where a block has nothing that it could be judged by.
        """
        if images is None and self.needs_images:
            raise RunError(f"--layer-criterion {self.name} needs training images; give --data")
        blocks = [block for block in trace.network.blocks if block.name not in removed]
        if self.whole is not None:
            return self.whole(trace, blocks, images or NO_IMAGES, task)
        found = self.of_channels(trace, images, task, removed)
        return {block.name: _mean(block, found, self.name) for block in blocks}

    def of_channels(
        self,
        trace: Trace,
        images: Images | None,
        task: VisionTask,
        removed: Collection[str] = (),
    ) -> Channels:
        """Scores of the filters of all layers with weights: layer → (filters,).

        Raises RunError for a criterion that does not score filters.
        """
        channels = self.require_channels()
        gone = {name for name, block in trace.network.block_of.items() if block in removed}
        layers = [
            layer.name
            for layer in trace.network.layers
            if layer.kind in WEIGHTED and layer.name not in gone
        ]
        return channels(trace, layers, images or NO_IMAGES, task)

    def require_channels(self) -> ChannelScore:
        """How it scores filters; raises RunError where it scores only layers."""
        if self.channels is None:
            able = (name for name, other in LAYER_CRITERIA.items() if other.channels)
            raise RunError(
                f"--layer-criterion {self.name} scores layers, not their filters; to thin layers "
                f"choose one of {', '.join(able)}"
            )
        return self.channels


def of_groups_and_blocks(trace: Trace, channels: Channels) -> dict[str, Tensor]:
    """Filters' scores, for searches: group → (width,), and block → (1,), by `Network.key_of`.

    A group's are added up over the layers that write it. A block is worth what the last of its
    layers writes that decides channels, a plain layer what it writes. Raises SearchError for a
    group of whose writers none has scores.
    """
    found = {group.name: torch.zeros(group.width) for group in trace.network.groups}
    writers = {layer.name: layer.group for layer in trace.network.layers if layer.group}
    for name, group in writers.items():
        if name in channels:
            found[group] += channels[name]
    unjudged = {*found} - {writers[name] for name in channels if name in writers}
    if unjudged:
        raise SearchError(
            f"the layer criterion cannot judge the filters of {min(unjudged)}; choose another one, "
            "such as gate_taylor"
        )
    for block in trace.network.blocks:
        decides = trace.network.is_plain(block)
        inside = [channels[x] for x in block.layers if x in channels and (decides or x in writers)]
        found[trace.network.key_of(block.name)] = (
            inside[-1].sum()[None] if inside else torch.zeros(1)
        )
    return found


class _None:
    """No images, for criteria that ask for none."""

    def __len__(self) -> int:
        return 0

    def batch(self, indices: Tensor, seed: int | None = None) -> tuple[Tensor, Targets]:
        raise AssertionError("there are none")


NO_IMAGES = _None()


def _mean(block: Block, channels: Channels, criterion: str) -> float:
    """The mean over a block's layers with weights of the mean over their filters."""
    inside = [float(channels[name].mean()) for name in block.layers if name in channels]
    if not inside:
        raise SearchError(
            f"--layer-criterion {criterion}: {block.name} has no layer that it can judge; "
            "choose another one, such as imprinting"
        )
    return sum(inside) / len(inside)


# -- of filters ----------------------------------------------------------------------------------


def weight_magnitude(
    trace: Trace, layers: Collection[str], images: Images, task: VisionTask
) -> Channels:
    """Σ w² of every filter: layer → (filters,)."""
    return {name: filters(trace.module.get_submodule(name)).square().sum(1) for name in layers}


def batch_norm(trace: Trace, layers: Collection[str], images: Images, task: VisionTask) -> Channels:
    """|γ| of the BatchNorm behind a layer; layers without one are left out."""
    found = {}
    for name in layers:
        norm = trace.batch_norms.get(name)
        scale = trace.module.get_submodule(norm).weight if norm else None
        if isinstance(scale, Tensor):
            found[name] = scale.detach().abs()
    return found


def weight_taylor(
    trace: Trace, layers: Collection[str], images: Images, task: VisionTask
) -> Channels:
    """Σ (w ∂E/∂w)² of every filter, added up over batches: layer → (filters,)."""

    def changes(name: str) -> Tensor:
        module = trace.module.get_submodule(name)
        weight = weight_of(module)
        assert weight.grad is not None
        return by_filter(module, weight.detach() * weight.grad).square().sum(1)

    return _added_up(trace, layers, images, task, changes)


def gate_taylor(
    trace: Trace, layers: Collection[str], images: Images, task: VisionTask
) -> Channels:
    """(∂E/∂g)² of a gate on every channel, added up over batches: layer → (filters,)."""

    def changes(name: str) -> Tensor:
        norm = trace.batch_norms.get(name)
        behind = trace.module.get_submodule(norm) if norm else None
        return gate_gradient(trace.module.get_submodule(name), behind).square()

    return _added_up(trace, layers, images, task, changes)


def _added_up(
    trace: Trace,
    layers: Collection[str],
    images: Images,
    task: VisionTask,
    of_layer: Callable[[str], Tensor],
) -> Channels:
    """What `of_layer` says of a layer's gradients, (filters,), added up over batches."""
    found: Channels = {}
    for _ in _gradients(trace, images, task):
        for name in layers:
            found[name] = found.get(name, 0) + of_layer(name).cpu()
    return found


def feature_map_taylor(
    trace: Trace, layers: Collection[str], images: Images, task: VisionTask
) -> Channels:
    """|mean of a ∂E/∂a| over a channel's places, added up over images, its layer's Euclidean norm
    1: layer → (filters,)."""
    maps: dict[str, Tensor] = {}
    found: Channels = {}

    def watch(name: str):
        def keep(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
            output.retain_grad()
            maps[name] = output
            return output.clone()  # an activation in place would write over it

        return keep

    with ExitStack() as hooks:
        for name in layers:
            behind = trace.module.get_submodule(trace.batch_norms.get(name, name))
            hooks.callback(behind.register_forward_hook(watch(name)).remove)
        for _ in _gradients(trace, images, task):
            for name, activation in maps.items():
                assert activation.grad is not None
                change = activation.detach() * activation.grad
                places = range(1, change.dim() - 1)  # of maps whose channels lie last
                if not isinstance(trace.module.get_submodule(name), nn.Linear):
                    places = range(2, change.dim())
                change = change.mean([*places]) if places else change
                found[name] = found.get(name, 0) + change.abs().sum(0).cpu()
    return {name: total / total.norm().clamp_min(1e-12) for name, total in found.items()}


def _gradients(trace: Trace, images: Images, task: VisionTask) -> Iterator[None]:
    """After every batch, with the gradients of its mean loss in place."""
    model = trace.module.eval()
    with on_processor(model) as here, all_learn(model):
        for x, targets in batches(images, at_once(images, BATCH), IMAGES):
            model.zero_grad(set_to_none=True)
            task.loss(model(here(x)), here(targets)).backward()
            yield
    model.zero_grad(set_to_none=True)


# -- of whole blocks -----------------------------------------------------------------------------


def imprinting(trace: Trace, blocks: Collection[Block], images: Images, task: VisionTask) -> Scores:
    """The share of images that class means of a block's output tell right, less that of its
    input: block → (−1 … 1). Raises SearchError unless targets are class numbers."""
    nodes = {node.name: node for node in trace.module.graph.nodes}
    around = {block.name: _around(trace, block, nodes) for block in blocks}
    watched = {node for pair in around.values() for node in pair}
    means: dict[fx.Node, Tensor] = {}
    right = dict.fromkeys(watched, 0)
    classes, count = _classes(images), 0
    model = trace.module.eval()
    with on_processor(model) as here, torch.no_grad():
        for judged in (False, True):
            drawn = batches(images, at_once(images, BATCH), 2 * IMAGES)
            for number, (x, targets) in enumerate(drawn):
                if bool(number % 2) is not judged:
                    continue
                features = _Watching(model, watched).of(here(x))
                count += len(x) if judged else 0
                for node, each in features.items():
                    if judged:
                        told = (each @ F.normalize(means[node], dim=1).T).argmax(1)
                        right[node] += int((told == targets).sum())
                    else:
                        sums = torch.zeros(classes, each.shape[1]).index_add_(0, targets, each)
                        means[node] = means.get(node, 0) + sums
    return {
        name: (right[after] - right[before]) / max(count, 1)
        for name, (before, after) in around.items()
    }


def _classes(images: Images) -> int:
    """How many classes the first images have; raises SearchError for other targets."""
    classes = 0
    for _, targets in batches(images, at_once(images, BATCH), 2 * IMAGES):
        known = isinstance(targets, Tensor) and targets.dim() == 1
        if not known or targets.is_floating_point():
            raise SearchError(
                "--layer-criterion imprinting needs images with class numbers; choose another one"
            )
        classes = max(classes, int(targets.max()) + 1)
    return classes


def _around(trace: Trace, block: Block, nodes: Mapping[str, fx.Node]) -> tuple[fx.Node, fx.Node]:
    """What a block reads and what it hands on, in a module that may lack other blocks."""
    before = {each.output: each.input for each in trace.network.blocks}
    source = block.input
    while trace.node_of[source] not in nodes:  # of a block that was removed
        source = before[source]
    return ends(trace, block.model_copy(update={"input": source}), nodes)


class _Watching(fx.Interpreter):
    """Runs a module, and keeps some nodes' maps as features of length 1."""

    def __init__(self, module: fx.GraphModule, watched: Collection[fx.Node]) -> None:
        super().__init__(module)
        self._watched = {node.name for node in watched}
        self._by_name = {node.name: node for node in watched}
        self._found: dict[fx.Node, Tensor] = {}

    def of(self, x: Tensor) -> dict[fx.Node, Tensor]:
        """Node → (images, features)."""
        self._found = {}
        self.run(x)
        return self._found

    def run_node(self, node: fx.Node):
        value = super().run_node(node)
        if node.name in self._watched:
            side = max(1, round((FEATURES / value.shape[1]) ** 0.5))
            pooled = F.adaptive_avg_pool2d(value.float(), side) if value.dim() == 4 else value
            self._found[self._by_name[node.name]] = F.normalize(pooled.flatten(1)).cpu()
        return value


def ensemble(trace: Trace, blocks: Collection[Block], images: Images, task: VisionTask) -> Scores:
    """The sum of a block's ranks by all other criteria that can judge all blocks: block → score."""
    every, total = [block.name for block in blocks], dict.fromkeys((b.name for b in blocks), 0.0)
    gone = {block.name for block in trace.network.blocks} - {*every}
    for name, criterion in LAYER_CRITERIA.items():
        if name == "ensemble":
            continue
        try:
            scores = criterion(trace, images, task, gone)
        except SearchError:  # no BatchNorm, or no classes
            continue
        for block, rank in zip(every, rankdata([scores[each] for each in every]), strict=True):
            total[block] += float(rank)
    return total


LAYER_CRITERIA: Registry[LayerCriterion] = Registry(
    "layer-criterion",
    (
        LayerCriterion("weight_magnitude", "squared weights", weight_magnitude, needs_images=False),
        LayerCriterion("weight_taylor", "squared changes of the loss by weights", weight_taylor),
        LayerCriterion("gate_taylor", "squared changes of the loss by channels", gate_taylor),
        LayerCriterion(
            "feature_map_taylor", "changes of the loss by feature maps", feature_map_taylor
        ),
        LayerCriterion("batch_norm", "BatchNorm's scale", batch_norm, needs_images=False),
        LayerCriterion("imprinting", "accuracy that class means gain by it", whole=imprinting),
        LayerCriterion("ensemble", "the sum of all other criteria's ranks", whole=ensemble),
    ),
)
