"""Journey: what the steps of a run share, made when first asked for."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from lookup_tables.architecture import Architecture
from lookup_tables.errors import BudgetError
from lookup_tables.model.latency_model import LatencyModel
from lookup_tables.model.staircase import Staircase
from lookup_tables.network import Network
from lookup_tables.table.store import LatencyTable
from pruner import RunError, models
from pruner.criteria import CRITERIA
from pruner.criteria.base import Criterion
from pruner.criteria.coupled import coupled_magnitude
from pruner.criteria.layers import LAYER_CRITERIA, of_groups_and_blocks
from pruner.criteria.masks import MASKS
from pruner.criteria.taylor import importance, weights_importance
from pruner.data.images import Data, Images
from pruner.graph.compensation import Reconstruction, leave_out
from pruner.graph.masks import Judge, Thinning, masks_of
from pruner.graph.surgery import Kept, cut, keep_best
from pruner.graph.trace import Trace, trace
from pruner.run.folder import read_json, write_json
from pruner.run.kernels import library
from pruner.run.settings import Settings
from pruner.search.problem import SearchProblem
from pruner.search.space import Kind, SearchSpace
from pruner.train.accuracy import accuracy, recalibrate, score
from pruner.train.finetune import Recipe
from pruner.train.reading import ReadOnce
from pruner.train.sparsity import SCHEDULES, BlockShape, Held, Sparsity
from pruner.train.tasks import TASKS
from pruner.train.tasks.base import VisionTask
from pruner.train.weights import load_weights

Report = Callable[[str, int, int, str], None]  # step, done, of how many, what now
CLEARLY = 0.999
FEW_IMAGES = 100  # of fewer BatchNorm sees too little


@dataclass
class Journey:
    """What the steps share, made when first asked for."""

    settings: Settings
    report: Report
    tightened: float = 1.0  # share of the budget that candidates may take by the table

    @cached_property
    def data(self) -> Data:
        self.report("load", 0, 1, f"reading {self.settings.data}")
        return self.settings.read_data(self.report)

    @cached_property
    def recalibrated_by(self) -> Images:
        """Training images that BatchNorm is measured on; see `score` for when candidates are."""
        return ReadOnce(self.data.train)

    @cached_property
    def judged_by(self) -> Images:
        """Held-out training images that every candidate is scored on."""
        return ReadOnce(self.data.held_out)

    @cached_property
    def task(self) -> VisionTask:
        return TASKS[self.settings.task].make(self.settings.own("task"))

    @cached_property
    def kernels(self) -> Path | None:
        """The library of sparse kernels that the table's networks run on; None if it is not here.

        Nor is it where the table's layers are all dense.
        """
        return library() if self.latency.device.block else None

    @property
    def is_int8(self) -> bool:
        """Whether the table is of networks in INT8, so that the run ends in one."""
        return self.table.device.precision == "int8"

    @property
    def taught_by(self) -> Images:
        """What training learns from: the held-out images too, unless they judge it."""
        return self.data.train if self.settings.patience else self.data.all_training

    @property
    def recipe(self) -> Recipe:
        """How the settings train."""
        settings = self.settings
        return Recipe(
            epochs=settings.epochs,
            batch=settings.batch,
            rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            distill=settings.distill,
            patience=settings.patience,
            seed=settings.seed,
        )

    @property
    def criterion(self) -> Criterion:
        return CRITERIA[self.settings.criterion]

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        return models.shape_for(self.settings.model, self.data.shape)

    @cached_property
    def dense(self) -> nn.Module:
        model = models.build(self.settings.model, self.data.classes)
        load_weights(model, self.settings.weights)
        return model.eval()

    @cached_property
    def trace(self) -> Trace:
        name = models.short_name(self.settings.model, self.data.classes, self.shape)
        return trace(self.dense, self.shape, name)

    @cached_property
    def table(self) -> LatencyTable:
        return LatencyTable.open(self.settings.table)

    @cached_property
    def priced(self) -> Network:
        """The network whose rows the table holds: this one, or one for more classes."""
        return self.table.pricing(self.trace.network)

    @cached_property
    def latency(self) -> LatencyModel:
        """What the table predicts; offered are only widths at the right edges of its steps."""
        measured = LatencyModel(self.priced, self.table)
        menu = Staircase(measured).menu()
        stay = groups_of(menu, self.settings.keep_width)
        widths = self.settings.widths and Kind.WIDTH in self.settings.searched_by.decides
        offered = {
            group.name: group.choices if widths and group.name not in stay else (group.width,)
            for group in menu.groups
        }
        if self.settings.may_remove:
            offered = _in_common(menu, offered)
        return measured.with_menu(menu.with_menu(offered))

    @cached_property
    def given(self) -> Architecture | None:
        """The architecture that the settings name, None where one is searched."""
        if self.settings.architecture is None:
            return None
        architecture = Architecture.load(self.settings.architecture)
        self.trace.network.check(architecture)
        return architecture

    @property
    def budget_s(self) -> float:
        if self.settings.latency_ms is not None:
            return self.settings.latency_ms / 1e3
        if self.settings.speedup is not None:
            return self.latency.dense_s / self.settings.speedup
        assert self.given is not None  # where there is no budget
        return self.latency.latency_s(self.given)

    @property
    def limit_s(self) -> float:
        """What candidates may take: the budget, or less where it is close to the dense latency.

        The upper end of a candidate's interval then stays below the dense network: nothing is
        offered that may turn out slower than its parent. Less too where networks that were found
        proved slower than predicted (`pruner/run/confirm.py`).
        """
        clearly = CLEARLY * self.latency.dense_s / (1 + self.widest)
        return min(self.tightened * self.budget_s, clearly)

    @property
    def widest(self) -> float:
        """The table's widest interval, a relative half-width."""
        return max(self.latency.interval_90, self.latency.interval_90_any)

    @cached_property
    def channel_importance(self) -> dict[str, Tensor]:
        """What candidates are cut by; a criterion that selects has its say when one was chosen."""
        return self.criterion.rank(self.trace, self.data.train, self.task)

    @cached_property
    def judge(self) -> Judge:
        """By what the weights are chosen that stay in sparse layers."""
        return MASKS[self.settings.mask].make(self.trace, self.data.train, self.task)

    @property
    def block(self) -> BlockShape:
        """Weights that the table's kernels leave out together."""
        device = self.latency.device
        return BlockShape(device.block or 1, device.tap)

    def thinning(self, architecture: Architecture) -> Thinning | None:
        """How an architecture's weights are left out, None where none are."""
        if not any(share < 1 for share in architecture.density.values()):
            return None
        return Thinning(architecture.density, self.block, self.judge)

    def thinned_in_training(
        self, model: nn.Module, architecture: Architecture
    ) -> tuple[nn.Module, Sparsity]:
        """The model to train and what training does about its weights, of sparse layers.

        `model`: the one whose weights were left out already. Where they leave in training, it
        begins with all of them.
        """
        if self.settings.schedule == "one_shot":
            return model, Held(masks_of(model, architecture, self.block))
        present = dict(model.named_modules())
        density = {n: d for n, d in architecture.density.items() if d < 1 and n in present}
        leaving = SCHEDULES[self.settings.schedule]
        whole = architecture.model_copy(update={"density": {}})
        return self.cut(whole), leaving(density, self.block)

    @cached_property
    def reconstruction(self) -> Reconstruction:
        self.report("load", 0, 1, "measuring what layers read")
        depth = self.settings.may_remove or bool(self.given and self.given.removed)
        return Reconstruction(self.trace, self.data.train, self.settings.seed, depth)

    @cached_property
    def space(self) -> SearchSpace:
        """What the method decides, on the table's menu."""
        settings, network = self.settings, self.latency.network
        kinds = settings.searched_by.kinds(settings.depth, settings.density)
        kinds |= {Kind.WIDTH}  # of one option each where no width is decided
        densities = Staircase(self.latency).densities() if self.settings.density else {}
        for name in self.trace.tied:  # one layer's masks would be another's
            densities.pop(name, None)
        stay = blocks_of(network, settings.keep_layer)
        return SearchSpace.of(network, kinds, densities, stay)

    def problem(self, kept: Path | None = None) -> SearchProblem:
        """The problem as a search method sees it.

        What it asks about channels is kept in the folder `kept`, so that a search can be repeated
        without images, and exactly.
        """
        settings = self.settings
        return SearchProblem(
            self.space,
            self.latency,
            self.limit_s,
            episodes=settings.scored,
            at_once=settings.at_once,
            seed=settings.seed,
            importance=lambda: _kept(
                kept, "importance", lambda: importance(self.trace, self.data.train, self.task)
            ),
            weights_importance=lambda: _kept(
                kept,
                "weights_importance",
                lambda: weights_importance(self.trace, self.data.train, self.task, self.block),
            ),
            magnitudes=lambda: _kept(kept, "magnitudes", lambda: coupled_magnitude(self.trace)),
            layer_scores=lambda name, removed: _kept_scores(
                kept, f"layers by {name}", removed, lambda: self.layer_scores(name, tuple(removed))
            ),
            filter_scores=lambda name: _kept(
                kept, f"filters_by_{name}", lambda: self._filter_scores(name)
            ),
        )

    def layer_scores(self, name: str, removed: tuple[str, ...] = ()) -> dict[str, float]:
        """What a layer criterion says of the blocks that are left: block → score.

        Where some are removed, of the network without them, as a candidate is cut.
        """
        criterion, traced = LAYER_CRITERIA.choose(name, RunError), self.trace
        if removed:
            self.report(
                "search", len(removed), len(traced.network.blocks), f"without {removed[-1]}"
            )
            module = self.cut(Architecture(removed=removed))
            assert isinstance(module, fx.GraphModule)
            traced = replace(traced, module=module)
        return criterion(traced, self.data.train, self.task, removed)

    def _filter_scores(self, name: str) -> dict[str, Tensor]:
        criterion = LAYER_CRITERIA.choose(name, RunError)
        channels = criterion.of_channels(self.trace, self.data.train, self.task)
        return of_groups_and_blocks(self.trace, channels)

    def cut(self, architecture: Architecture) -> nn.Module:
        """The pruned model: best-ranked filters, weights refitted, BatchNorm measured anew."""
        return self._recalibrated(self._refitted(architecture))

    def _refitted(self, architecture: Architecture) -> nn.Module:
        scores = self.channel_importance
        if self.settings.reconstruct and architecture.removed:
            scores = self.reconstruction.judged_as(scores, architecture.removed)
        kept = keep_best(self.trace.network, architecture, scores)
        thinning = self.thinning(architecture)
        return cut(self._traced_for(kept, architecture.removed, thinning), architecture, kept)

    def _traced_for(
        self, kept: Kept, removed: Collection[str], thinning: Thinning | None = None
    ) -> Trace:
        """The trace to cut, refitted to what stays unless the settings forbid it."""
        if self.settings.reconstruct:
            return self.reconstruction.refit(kept, removed, thinning)
        if thinning is None:
            return self.trace
        traced = replace(self.trace, module=copy.deepcopy(self.trace.module))
        for path in thinning.layers:
            leave_out(traced, path, kept, thinning)
        return traced

    def pruned(self, architecture: Architecture) -> nn.Module:
        """The network that was found, cut: by the criterion's selection where it has one."""
        selection = self.criterion.select
        if selection is None:
            return self.cut(architecture)
        traced = self.trace
        if architecture.removed:
            all_of_them = {g.name: torch.arange(g.width) for g in traced.network.groups}
            traced = self._traced_for(all_of_them, architecture.removed)
        traced, kept = selection(
            traced,
            architecture,
            self.data.train,
            self.task,
            self.settings.own("criterion"),
            self.settings.seed,
            report=lambda step, total, text: self.report("select", step, total, text),
        )
        return self._recalibrated(cut(traced, architecture, kept))

    def _recalibrated(self, model: nn.Module) -> nn.Module:
        recalibrate(model, self.recalibrated_by, self.settings.recalibration_images, fast=True)
        return model

    def score(self, architecture: Architecture, count: int | None = None) -> float:
        """Accuracy before fine-tuning, on held-out training images."""
        if min(count or FEW_IMAGES, len(self.judged_by)) < FEW_IMAGES:
            return accuracy(self.cut(architecture), self.judged_by, count, True, self.task)
        return score(self._refitted(architecture), self.judged_by, count, self.task)


def blocks_of(network: Network, layers: Sequence[str]) -> set[str]:
    """The removable blocks that some layers are in, or that are called so.

    Raises RunError for a layer that there is not.
    """
    blocks = {block.name for block in network.blocks}
    for name in layers:
        if name not in blocks and name not in network.geometry:
            near = get_close_matches(name, [*blocks, *network.geometry], n=3, cutoff=0)
            raise RunError(
                f"--keep-layer {name!r}: {network.name} has no such layer or block; nearest: "
                + ", ".join(near)
            )
    return {network.block_of.get(name, name) for name in layers} & blocks


def groups_of(network: Network, layers: Sequence[str]) -> set[str]:
    """The groups that some layers' outputs are made of; raises RunError for an unknown layer."""
    for name in layers:
        if name not in network.geometry:
            near = get_close_matches(name, network.geometry, n=3, cutoff=0)
            raise RunError(
                f"--keep-width {name!r}: {network.name} has no such layer; nearest: "
                + (", ".join(near) or "no layer")
            )
    return {group for name in layers for group, _ in network.geometry[name].out_form.factors}


def require_reachable(journey: Journey) -> None:
    """Raise BudgetError if no architecture on the menu takes so little time.

    Of an architecture that is given, if it takes more.
    """
    if journey.given is not None:
        _require_within(journey, journey.given)
        return
    try:
        journey.problem().completion.require(journey.limit_s, journey.score)
    except BudgetError as error:
        if journey.limit_s == journey.tightened * journey.budget_s:
            raise
        raise BudgetError(
            f"{error}. The pruned network must be faster than the dense one, and this table's "
            f"predictions hold only to within ±{journey.widest:.0%}. For a better table, continue "
            "its profile: latprof profile --error"
        ) from None


def _require_within(journey: Journey, given: Architecture) -> None:
    for name, width in given.widths.items():
        lowest = journey.latency.lowest_widths[name]
        if width < lowest:
            raise RunError(
                f"{journey.settings.architecture}: {name} has width {width}, but the table covers "
                f"widths from {lowest} up. Give {lowest} or more"
            )
    latency_s = journey.latency.latency_s(given)
    if latency_s > journey.limit_s * (1 + 1e-9):
        allowed = (
            "the budget"
            if journey.limit_s == journey.budget_s
            else "the largest latency that is surely faster than dense"
        )
        raise BudgetError(
            f"{journey.settings.architecture}: predicted {latency_s * 1e3:.3f} ms, but {allowed} "
            f"is {journey.limit_s * 1e3:.3f} ms. Give another architecture, or a larger budget"
        )


def _in_common(
    network: Network, offered: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """Menus, group → widths: groups that removed plain layers may tie get the same one.

    So a layer can go at any width of theirs: what all of them have if that is at least half of the
    shortest menu, else the longest menu. A group that keeps its width stays as it is.
    """
    found = dict(offered)
    for tied in _tied_together(network):
        menus = {group: found[group] for group in tied if len(found[group]) > 1}
        if len(menus) < 2:
            continue
        common = set.intersection(*map(set, menus.values()))
        lowest = max(menu[0] for menu in menus.values())
        if 2 * len(common) < min(map(len, menus.values())):
            longest = max(menus.values(), key=len)
            common = {width for width in longest if width >= lowest}
        found |= dict.fromkeys(menus, tuple(sorted(common)))
    return found


def _tied_together(network: Network) -> list[set[str]]:
    """Groups that become one where all plain layers between them go."""
    found: list[set[str]] = []
    for own, read in network.ties.values():
        joined = {own, read}.union(*(each for each in found if each & {own, read}))
        found = [each for each in found if not each & joined] + [joined]
    return found


def _kept_scores(
    folder: Path | None,
    name: str,
    removed: Sequence[str],
    measure: Callable[[], dict[str, float]],
) -> dict[str, float]:
    """What layers are worth once others are removed, remembered in one file."""
    if folder is None:
        return measure()
    path, key = folder / "layer_scores.json", " without ".join([name, *removed])
    known = read_json(path) if path.exists() else {}
    if key not in known:
        known[key] = measure()
        write_json(path, known)
    return known[key]


def _kept(folder: Path | None, name: str, measure: Callable[[], dict]) -> dict[str, list[float]]:
    path = folder / f"{name}.json" if folder else None
    if path and path.exists():
        return read_json(path)
    found = {channels: values.tolist() for channels, values in measure().items()}
    if path:
        write_json(path, found)
    return found
