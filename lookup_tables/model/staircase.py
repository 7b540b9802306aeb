"""The staircase: which widths a device rewards, what binds a layer, and why a network is slow.

A runtime takes channels in steps. Of the widths on one step only the widest, its right edge, is
worth choosing; a width that costs as much as a wider one never is. All of it is read from a
LatencyModel, so from measurements.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from lookup_tables.architecture import Architecture
from lookup_tables.layer import WEIGHTED, LayerSpec
from lookup_tables.model.latency_model import DENSITIES, LatencyModel, LayerPrediction
from lookup_tables.network import ChannelGroup, Network

Binding = Literal["launch", "memory", "compute", "neither"]
MOST_CHOICES = 16  # widths of one group offered to a search
WORTH = 0.001  # of the dense network's latency: what a narrower width must save to be offered
DENSITY_NOISE = 0.03  # of a layer's time: what a lower density must save to be offered
_NEAR_FLOOR = 2.0  # times the cheapest weighted layer's time: bound by launching it
_BUSY = 0.5  # share of the best rate seen on the device
_NEAR_BEST = 0.25  # share of the best rate below which nothing is bound by it
_BYTES = {"fp32": 4, "fp16": 2, "int8": 1}


@dataclass(frozen=True, slots=True)
class Step:
    """One width of a group with the others unchanged: is it a right edge, or what dominates it?"""

    group: str
    width: int
    seconds: float  # of the whole network
    edge: bool
    better: int | None  # the fastest wider width, if that is not noticeably slower


@dataclass(frozen=True, slots=True)
class Advice:
    """Another width for one group of an architecture, and what it saves in seconds (or costs)."""

    group: str
    width: int
    instead: int
    saves_s: float


@dataclass(frozen=True, slots=True)
class LayerReport:
    """One layer before and after pruning: its time, its share of the MACs, what binds it."""

    name: str
    spec: LayerSpec
    dense_s: float | None  # None: the dense network holds no such layer
    seconds: float
    macs_share: float  # MACs after / before; 1 for layers without any
    binding: Binding

    @property
    def lost_s(self) -> float:
        """Seconds above what its MACs would suggest: what pruning failed to buy here."""
        return self.seconds - (self.dense_s or self.seconds) * self.macs_share


class Staircase:
    """Reads the steps out of one network's latency model."""

    def __init__(self, model: LatencyModel) -> None:
        self.model, self.network = model, model.network

    # -- menus ---------------------------------------------------------------------------------

    def steps(self, group: ChannelGroup, architecture: Architecture | None = None) -> list[Step]:
        """Every measurable width of a group, ascending; the other groups as in `architecture`.

        Raises NotMeasured if the table's range does not hold the architecture.
        """
        base = self.network.widths(architecture or self.network.dense)
        lowest = self.lowest_width(group)
        widths = np.arange(lowest, group.width + 1)
        index = [g.name for g in self.network.groups].index(group.name)
        rows = np.tile(np.array(list(base.values())), (len(widths), 1))
        rows[:, index] = widths
        removed = None
        if architecture is not None and architecture.removed:
            gone = [block.name in architecture.removed for block in self.network.blocks]
            removed = np.tile(np.array(gone), (len(widths), 1))
        seconds = self.model.predict(rows, removed, self._densities(architecture, rows)).latency_s
        best_s, best_width, steps = np.inf, group.width, []
        for width, cost_s in zip(widths[::-1], seconds[::-1], strict=True):
            edge = bool(cost_s < best_s - WORTH * self.model.dense_s)
            better = None if edge else best_width
            if edge:
                best_s, best_width = float(cost_s), int(width)
            steps.append(Step(group.name, int(width), float(cost_s), edge, better))
        return steps[::-1]

    def _densities(self, architecture: Architecture | None, rows: np.ndarray) -> np.ndarray | None:
        """An architecture's densities for every row; None where all weights are kept."""
        if architecture is None or not architecture.density:
            return None
        shares = [architecture.density.get(name, 1.0) for name in self.model.sparse_layers]
        return np.tile(np.array(shares), (len(rows), 1))

    def most_telling(
        self, count: int, architecture: Architecture | None = None
    ) -> list[tuple[ChannelGroup, list[Step]]]:
        """The groups whose widths move the network's time most, with their steps."""
        every = [(group, self.steps(group, architecture)) for group in self.network.groups]
        every.sort(key=lambda pair: pair[1][0].seconds - pair[1][-1].seconds)
        return every[:count]

    def menu(self) -> Network:
        """The network with the device's right edges as every group's widths.

        Not narrower than the menu it comes with; of more than MOST_CHOICES edges, those are taken
        that divide the group's times most evenly.
        """
        return self.network.with_menu({g.name: self._edges(g) for g in self.network.groups})

    def densities(self) -> dict[str, tuple[float, ...]]:
        """Of every layer whose weights may be left out, the shares worth choosing, ascending.

        Each saves more than the table's noise over the next larger one, with the dense network's
        widths; a layer in which nothing does keeps all its weights and is not named.
        """
        model, found = self.model, {}
        wide = self.network.widths(self.network.dense)
        at = {layer.name: layer for layer in self.network.layers}
        for name in model.sparse_layers:
            spec = self.network.spec(at[name], wide)
            seconds = model.price(name, spec, np.array(DENSITIES))
            least_s = max(WORTH * model.dense_s, DENSITY_NOISE * seconds[-1])
            kept, last_s = [DENSITIES[-1]], seconds[-1]
            for share, cost_s in zip(DENSITIES[-2::-1], seconds[-2::-1], strict=True):
                if cost_s < last_s - least_s:
                    kept, last_s = [share, *kept], cost_s
            if len(kept) > 1:
                found[name] = tuple(kept)
        return found

    def over_density(self) -> list[tuple[float, float]]:
        """(density, seconds of the network with it in all layers that may be sparse), ascending.

        Widths are the dense network's. Empty for a table without densities.
        """
        if not self.model.sparse_layers:
            return []
        wide = list(self.network.widths(self.network.dense).values())
        densities = np.repeat(np.array(DENSITIES)[:, None], len(self.model.sparse_layers), axis=1)
        found = self.model.predict(np.tile(wide, (len(DENSITIES), 1)), densities=densities)
        return list(zip(DENSITIES, found.latency_s.tolist(), strict=True))

    def _edges(self, group: ChannelGroup) -> tuple[int, ...]:
        edges = [s for s in self.steps(group) if s.edge and s.width >= group.choices[0]]
        most = MOST_CHOICES if self._most_coupled <= 3 else len(group.choices)
        if len(edges) > most:
            seconds = np.array([step.seconds for step in edges])
            evenly = np.linspace(seconds[0], seconds[-1], most)
            nearest = {int(np.abs(seconds - wanted).argmin()) for wanted in evenly}
            edges = [edges[i] for i in sorted(nearest)]
        return tuple(step.width for step in edges)

    @cached_property
    def _most_coupled(self) -> int:
        """How many groups meet in one layer; a search must consider all their combinations."""
        return max(
            len({name for name, _ in (*g.in_form.factors, *g.out_form.factors)})
            for g in self.network.geometry.values()
        )

    def lowest_width(self, group: ChannelGroup) -> int:
        """The narrowest width of a group that the table answers for."""
        return self.model.lowest_widths[group.name]

    # -- what binds a layer --------------------------------------------------------------------

    def binding(self, spec: LayerSpec, seconds: float) -> Binding:
        """What a layer's time goes into.

        *launch*: hardly more than the cheapest layer of the table takes, so thinning it further
        buys nothing; *memory*: it moves bytes at a rate near the best seen, and computes far
        below the best seen (the roofline's left side: Williams et al., CACM 52 (2009));
        *neither*: it is far from the best of both, as where its channels do not fit the device.
        """
        floor_s, best_macs, best_bytes = self._rates
        if seconds <= _NEAR_FLOOR * floor_s:
            return "launch"
        computing = spec.kept_macs / seconds / best_macs
        moving = self._bytes(spec) / seconds / best_bytes
        if max(moving, computing) < _NEAR_BEST:
            return "neither"
        return "memory" if moving > computing and computing < _BUSY else "compute"

    @cached_property
    def _rates(self) -> tuple[float, float, float]:
        """(cheapest weighted layer's seconds, most MACs a second, most bytes a second)."""
        timed = [(spec, seconds) for spec, seconds in self.model.measured() if seconds > 1e-7]
        weighted = [(spec, seconds) for spec, seconds in timed if spec.kind in WEIGHTED]
        floor_s = float(np.percentile([seconds for _, seconds in weighted], 2))
        best_macs = float(np.percentile([s.kept_macs / t for s, t in weighted], 98))
        best_bytes = float(np.percentile([self._bytes(s) / t for s, t in timed], 98))
        return floor_s, best_macs, best_bytes

    def _bytes(self, spec: LayerSpec) -> int:
        """What the layer reads and writes, weights included."""
        batch, size = self.model.device.batch, _BYTES[self.model.device.precision]
        read = spec.in_channels * spec.in_size[0] * spec.in_size[1]
        written = spec.out_channels * spec.out_size[0] * spec.out_size[1]
        weights = 0
        if spec.kind in WEIGHTED:
            per_filter = 1 if spec.kind == "depthwise" else spec.in_channels // spec.groups
            weights = spec.out_channels * per_filter * spec.kernel[0] * spec.kernel[1]
        moved = batch * (read + written * (1 + spec.residual)) + weights * spec.density
        return int(size * moved)

    # -- an architecture explained -------------------------------------------------------------

    def layers(self, architecture: Architecture) -> list[LayerReport]:
        """Every layer of an architecture beside the dense network's, in execution order."""
        before = {layer.name: layer for layer in self.model.layers(self.network.dense)}
        return [
            self._report(layer, before.get(layer.name)) for layer in self.model.layers(architecture)
        ]

    def _report(self, layer: LayerPrediction, before: LayerPrediction | None) -> LayerReport:
        macs = before.spec.macs if before else 0
        return LayerReport(
            name=layer.name,
            spec=layer.spec,
            dense_s=before.seconds if before else None,
            seconds=layer.seconds,
            macs_share=layer.spec.kept_macs / macs if macs else 1.0,
            binding=self.binding(layer.spec, layer.seconds),
        )

    def advice(self, architecture: Architecture) -> tuple[list[Advice], list[Advice]]:
        """(widths that are wider and yet no slower, narrower right edges), best first.

        One group at a time, the others as they are; of the narrower ones, for each group the
        nearest edge that saves something.
        """
        wider, narrower = [], []
        widths = self.network.widths(architecture)
        ties = self.network.ties
        follow = {ties[layer][0] for layer in architecture.removed if layer in ties}
        for group in self.network.groups:
            if group.name in follow:  # nothing writes such channels any more
                continue
            steps = {step.width: step for step in self.steps(group, architecture)}
            here = steps.get(widths[group.name])
            if here is None:
                continue
            if here.better is not None:
                other = steps[here.better]
                wider.append(
                    Advice(group.name, here.width, other.width, here.seconds - other.seconds)
                )
            below = [s for s in steps.values() if s.edge and s.width < here.width]
            saving = [s for s in below if s.seconds < here.seconds - WORTH * self.model.dense_s]
            if saving:
                nearest = max(saving, key=lambda s: s.width)
                narrower.append(
                    Advice(group.name, here.width, nearest.width, here.seconds - nearest.seconds)
                )
        return _best_first(wider), _best_first(narrower)


def _best_first(found: list[Advice]) -> list[Advice]:
    return sorted(found, key=lambda advice: advice.saves_s, reverse=True)
