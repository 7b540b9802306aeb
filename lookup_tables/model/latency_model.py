"""LatencyModel: architectures in (an array of them), seconds out, with an interval.

A network's latency is the sum over its layers of what the table measured for their shapes inside
running networks, calibrated on whole-network times (`calibration.py`). Layers that depend on the
same groups are summed beforehand into one term per set of groups, so that a query is a few dozen
look-ups.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path

import numpy as np

from lookup_tables.architecture import Architecture
from lookup_tables.errors import NotMeasured, TableError
from lookup_tables.layer import LayerSpec, macs, weights
from lookup_tables.model.calibration import Calibration, calibrate, layer_shares
from lookup_tables.model.prior import corrected
from lookup_tables.model.sparse_surface import SparseSurface
from lookup_tables.model.surface import MIXING, ChannelStep, Surface, find_step
from lookup_tables.network import Layer, Network
from lookup_tables.table.prior import Prior, PriorLayer
from lookup_tables.table.rows import Run
from lookup_tables.table.settled import undisturbed
from lookup_tables.table.store import LatencyTable

PREDICTOR = 2  # raised whenever the same rows are predicted otherwise
MOST_CELLS = 1_000_000  # combinations of widths that one term has
CHUNK = 8192  # architectures answered at once: the index arrays then stay in the cache
SMALLEST = 1e-3  # of the dense network's time: no prediction is less
_SMALLEST_SHARE = 0.05  # of a layer's raw time; overhead correction never takes more
DENSITIES = (0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)  # that a table of sparse layers measures
FEWEST_RUNS = 4  # design runs below which nothing is predicted
_FEWEST_UNSEEN = 10  # for an interval of its own
_NORMAL_90 = 1.645
_BETWEEN_PROCESSES = 0.008  # all networks together, relative (benchmarks/latency_error.py)


@dataclass(frozen=True)
class Prediction:
    """Seconds for n architectures, each field of shape (n,); `interpolated` is a share in time."""

    latency_s: np.ndarray
    low_s: np.ndarray
    high_s: np.ndarray
    interpolated: np.ndarray


@dataclass(frozen=True, slots=True)
class LayerPrediction:
    """One layer's calibrated seconds."""

    name: str
    spec: LayerSpec
    seconds: float
    interpolated: bool


@dataclass(frozen=True)
class Term:
    """The layers that depend on one set of groups, summed: seconds over the product of menus.

    `seconds` and `interpolated_s` have one axis per group; `block` is the removable block that
    takes the term with it, None if nothing does. A layer that may be `sparse` has a term of its
    own, with one more axis for its densities.
    """

    groups: tuple[str, ...]
    block: str | None
    layers: tuple[Layer, ...]
    seconds: np.ndarray
    interpolated_s: np.ndarray
    sparse: str | None = None  # the layer's name


class LatencyModel:
    """Predicts any architecture of one network on one device."""

    def __init__(self, network: Network, table: LatencyTable) -> None:
        """Build from a table's design runs; raises TableError if there are too few.

        `lowest_widths` has, for every group, the narrowest width that was measured.
        """
        self.network, self.device = network, table.device
        plan = table.require_network(network)
        runs = designed = table.settled_runs(network, "design")
        runs = undisturbed(runs) if len(runs) > 2 * FEWEST_RUNS else runs
        if len(runs) < FEWEST_RUNS:
            raise TableError(
                f"{table.path(network.name)} holds {len(runs)} design runs, too few to predict "
                f"from; continue with: latprof profile --network {network.name} "
                f"--out {table.folder}"
            )
        self._where = str(table.path(network.name))
        # The quiet level of the machine; a few percent of runs are always faster than usual.
        self.dense_s = float(np.percentile([run.dense_s for run in runs], 20))
        self.shares, self.nodes = layer_shares(runs)
        measured = {*self.shares}
        prior = table.prior(network)
        if prior is not None and not _are_enough(designed, plan.levels):
            counts = Counter(entry.layer for run in runs for entry in run.layers)
            self.shares, self.nodes = corrected(prior, self.shares, self.nodes, counts)
        self.calibration = calibrate(runs, self.shares, self.nodes, self.dense_s)
        self.sparse_layers = network.sparse_layers if table.device.block else ()
        self._surfaces = self._build_surfaces(self.nodes, measured)
        unseen = undisturbed(table.settled_runs(network, "unseen"))
        self._grid = {name: set(widths) for name, widths in plan.menu.items()}
        seen = [network.widths(run.architecture) for run in runs]
        self.lowest_widths = {name: min(widths[name] for widths in seen) for name in network.group}
        self.interval_90, self.interval_90_any = self._intervals(unseen, runs)

    @classmethod
    def load(cls, network: Network, folder: str | Path) -> LatencyModel:
        """From a table's folder; raises TableError."""
        return cls(network, LatencyTable.open(folder))

    def with_menu(self, network: Network) -> LatencyModel:
        """The same model for the same network with other widths to choose from."""
        if network.fingerprint != self.network.fingerprint:
            raise TableError(f"{network.name} is not the network that {self._where} was made for")
        other = copy.copy(self)
        other.network = network
        other.sparse_layers = network.sparse_layers if self.device.block else ()
        for derived in ("terms", "_positions"):
            other.__dict__.pop(derived, None)
        return other

    def as_prior(self) -> Prior:
        """What this table says of its network, as a start for another device's."""
        return Prior(
            device=self.device,
            fingerprint=self.network.fingerprint,
            steps={kind: tuple(step) for kind, step in self.steps.items()},
            layers=tuple(
                PriorLayer(layer=spec, share=share, nodes=self.nodes[spec])
                for spec, share in self.shares.items()
            ),
        )

    def in_macs(self) -> LatencyModel:
        """The same questions about multiply-accumulates, scaled to the dense network's seconds."""
        return _CountingModel(self, macs)

    def in_weights(self) -> LatencyModel:
        """The same questions about how many weights there are, scaled in the same way."""
        return _CountingModel(self, weights)

    # -- questions -----------------------------------------------------------------------------

    def predict(
        self,
        widths: np.ndarray,
        removed: np.ndarray | None = None,
        densities: np.ndarray | None = None,
    ) -> Prediction:
        """Seconds for an array of architectures.

        `widths`: (n, groups) integers in the order of `network.groups`; `removed`: (n, blocks)
        booleans in the order of `network.blocks`; `densities`: (n, sparse layers) shares of weights
        kept, in the order of `sparse_layers`, all of them by default. Raises NotMeasured outside
        the table's range and ValueError on another shape.
        """
        widths = np.asarray(widths)
        _require_shape("widths", widths, len(self.network.groups))
        if removed is not None:
            removed = np.asarray(removed, dtype=bool)  # ~ of an integer 1 is true
            _require_shape("removed", removed, len(self.network.blocks), len(widths))
            removed = removed if removed.any() else None
        if densities is not None:
            densities = np.asarray(densities, dtype=float)
            _require_shape("densities", densities, len(self.sparse_layers), len(widths))
            densities = densities if (densities < 1).any() else None
        self._check_range(widths)
        widths = self._tied(widths, removed)
        totals = np.empty((2, len(widths)))
        for start in range(0, len(widths), CHUNK):
            part = slice(start, start + CHUNK)
            of_part = (None if array is None else array[part] for array in (removed, densities))
            totals[:, part] = self._sum_terms(widths[part], *of_part)
        latency_s = totals[0] + self.calibration.b * self.dense_s
        # Far below what was measured the line may fall to 0, which no network takes.
        latency_s = np.maximum(latency_s, SMALLEST * self.dense_s)
        interpolated = np.clip(totals[1] / totals[0], 0, 1)
        far = np.minimum(interpolated / self._usual_interpolation, 1.0)
        half = self.interval_90 + far * (self.interval_90_any - self.interval_90)
        return Prediction(
            latency_s,
            latency_s * (1 - np.minimum(half, 0.99)),
            latency_s * (1 + half),
            interpolated,
        )

    def predict_architectures(self, architectures: Sequence[Architecture]) -> Prediction:
        """The same for Architecture objects; raises ArchitectureError or NotMeasured."""
        for architecture in architectures:
            self.network.check(architecture)
            self._refuse_density(architecture)
        widths = [list(self.network.widths(a).values()) for a in architectures]
        removed = [[b.name in a.removed for b in self.network.blocks] for a in architectures]
        densities = [
            [a.density.get(name, 1.0) for name in self.sparse_layers] for a in architectures
        ]
        shapes = [(len(widths), len(parts)) for parts in (self.network.blocks, self.sparse_layers)]
        return self.predict(
            np.array(widths),
            np.array(removed, dtype=bool).reshape(shapes[0]),
            np.array(densities, dtype=float).reshape(shapes[1]),
        )

    def latency_s(self, architecture: Architecture) -> float:
        return float(self.predict_architectures([architecture]).latency_s[0])

    def layers(self, architecture: Architecture) -> list[LayerPrediction]:
        """Every layer's calibrated seconds; their sum is the latency less the constant part."""
        self._refuse_density(architecture)
        answers = []
        for layer, spec in self.network.layer_specs(architecture):
            x, y = np.array([spec.in_channels]), np.array([spec.out_channels])
            seconds, interpolated = self._price(layer.name, spec, x, y, np.array([spec.density]))
            if np.isnan(seconds[0]):
                raise self._not_measured(layer.name, spec)
            answers.append(
                LayerPrediction(layer.name, spec, float(seconds[0]), bool(interpolated[0]))
            )
        return answers

    def price(self, layer: str, spec: LayerSpec, density: np.ndarray) -> np.ndarray:
        """Seconds of one layer of these widths at several densities: (n,); NaN where not measured.

        Raises NotMeasured for a layer whose family is not in the table.
        """
        x, y = (np.full(density.shape, n) for n in (spec.in_channels, spec.out_channels))
        return self._price(layer, spec, x, y, density)[0]

    @cached_property
    def interpolation_error(self) -> float:
        """Relative error that holds 90 % of layers when the others must answer for one."""
        errors = [np.abs(surface.left_out()[0]) for surface in self._surfaces.values()]
        return float(np.quantile(np.concatenate(errors), 0.9))

    def spreads(self, architectures: Sequence[Architecture]) -> np.ndarray:
        """Relative standard deviations that interpolating layers brings: (n,).

        What measuring an architecture would teach; 0 where every layer was measured.
        """
        asked: dict[tuple, list[tuple[int, int, int, float]]] = {}
        for i, architecture in enumerate(architectures):
            for layer, spec in self.network.layer_specs(architecture):
                key = self._key(layer.name, spec)
                row = (i, spec.in_channels, spec.out_channels, spec.density)
                asked.setdefault(key, []).append(row)
        squares, totals = np.zeros((2, len(architectures)))
        for family, rows in asked.items():
            surface = self._surfaces[family]
            which, x, y, density = np.array(rows).T
            which, x, y = (column.astype(int) for column in (which, x, y))
            where = (x, y, density) if isinstance(surface, SparseSurface) else (x, y)
            seconds, _ = surface(*where)
            spread = surface.relative_spread(*where)
            np.add.at(squares, which, (spread * seconds) ** 2)
            np.add.at(totals, which, seconds)
        return np.sqrt(squares) / totals

    def off_menu(self, architecture: Architecture) -> bool:
        """Whether a width or a density lies between those of the grid that was measured."""
        widths = self.network.widths(architecture)
        between = any(density not in DENSITIES for density in architecture.density.values())
        return between or any(width not in self._grid[name] for name, width in widths.items())

    def measured(self) -> list[tuple[LayerSpec, float]]:
        """Every layer that the table holds, with its calibrated seconds."""
        return list(self._measured.items())

    # -- terms ---------------------------------------------------------------------------------

    @cached_property
    def terms(self) -> tuple[Term, ...]:
        """One term per set of groups and block; every cell of the menus' product is priced."""
        members: dict[tuple, list[Layer]] = {}
        sparse = {*self.sparse_layers}
        order = {group.name: i for i, group in enumerate(self.network.groups)}
        for layer in self.network.layers:
            geometry = self.network.geometry[layer.name]
            groups = {name for name, _ in (*geometry.in_form.factors, *geometry.out_form.factors)}
            key = (
                tuple(sorted(groups, key=order.__getitem__)),
                self.network.block_of.get(layer.name),
                layer.name if layer.name in sparse else None,
            )
            members.setdefault(key, []).append(layer)
        return tuple(
            self._term(groups, block, only, layers)
            for (groups, block, only), layers in members.items()
        )

    def _term(
        self, groups: tuple[str, ...], block: str | None, sparse: str | None, layers: list[Layer]
    ) -> Term:
        menus: list[tuple] = [self.network.group[name].choices for name in groups]
        menus += [DENSITIES] if sparse else []
        if prod(map(len, menus)) > MOST_CELLS:  # too many coupled groups to tabulate
            empty = np.full((0,) * len(menus), np.nan)
            return Term(groups, block, tuple(layers), empty, empty, sparse)
        mesh = [*np.meshgrid(*map(np.array, menus), indexing="ij")] if menus else []
        density = mesh.pop() if sparse else 1.0
        seconds, interpolated_s = self._sum_layers(
            layers, dict(zip(groups, mesh, strict=True)), tuple(map(len, menus)), density
        )
        return Term(groups, block, tuple(layers), seconds, interpolated_s, sparse)

    def seconds_of(self, term: Term, widths: Mapping[str, np.ndarray]) -> np.ndarray:
        """What a term takes for some widths of its groups, of shapes that go together."""
        arrays = np.broadcast_arrays(*(widths[name] for name in term.groups))
        by_name = dict(zip(term.groups, arrays, strict=True))
        return self._sum_layers(term.layers, by_name, arrays[0].shape)[0]

    def _sum_layers(
        self,
        layers,
        widths: dict[str, np.ndarray],
        shape: tuple[int, ...],
        density: np.ndarray | float = 1.0,
    ):
        """(seconds, of which interpolated) of some layers for arrays of widths and densities."""
        total, of_which = np.zeros(shape), np.zeros(shape)
        for layer in layers:
            geometry = self.network.geometry[layer.name]
            in_widths = np.broadcast_to(geometry.in_form(widths), shape)
            out_widths = np.broadcast_to(geometry.out_form(widths), shape)
            spec = self.network.spec(layer, self.network.widths(self.network.dense))
            densities = np.broadcast_to(density, shape)
            seconds, interpolated = self._price(layer.name, spec, in_widths, out_widths, densities)
            total += seconds
            of_which += np.where(interpolated, seconds, 0.0)
        return total, of_which

    @cached_property
    def _positions(self) -> list[np.ndarray]:
        """Per group: width → position on the menu, -1 where the width is not on it."""
        tables = []
        for group in self.network.groups:
            table = np.full(group.width + 1, -1, dtype=np.intp)
            table[list(group.choices)] = np.arange(len(group.choices))
            tables.append(table)
        return tables

    def _sum_terms(
        self, widths: np.ndarray, removed: np.ndarray | None, densities: np.ndarray | None
    ) -> np.ndarray:
        columns = np.ascontiguousarray(widths.T)
        positions = [table[column] for table, column in zip(self._positions, columns, strict=True)]
        on_menu = all((position >= 0).all() for position in positions)
        group_index = {group.name: i for i, group in enumerate(self.network.groups)}
        block_index = {block.name: i for i, block in enumerate(self.network.blocks)}
        layer_index = {name: i for i, name in enumerate(self.sparse_layers)}
        options, option_of, is_option = _densities_on_menu(densities)
        on_menu &= is_option
        totals = np.zeros((2, len(widths)))
        for term in self.terms:
            indices = [group_index[name] for name in term.groups]
            at = layer_index[term.sparse] if term.sparse else None
            if on_menu and term.seconds.size:
                where = [positions[i] for i in indices]
                where += [options if option_of is None else option_of[:, at]] if term.sparse else []
                seconds, of_which = _look_up(term, where)
            else:
                named = {name: columns[i] for name, i in zip(term.groups, indices, strict=True)}
                density = 1.0 if at is None or densities is None else densities[:, at]
                seconds, of_which = self._sum_layers(term.layers, named, (len(widths),), density)
            if removed is not None and term.block is not None:
                keep = ~removed[:, block_index[term.block]]
                seconds, of_which = np.where(keep, seconds, 0.0), np.where(keep, of_which, 0.0)
            totals[0] += seconds
            totals[1] += of_which
        if np.isnan(totals[0]).any():
            row = int(np.isnan(totals[0]).argmax())
            raise self._first_not_measured(
                widths[row], None if densities is None else densities[row]
            )
        return totals

    def _tied(self, widths: np.ndarray, removed: np.ndarray | None) -> np.ndarray:
        """Widths with those of removed layers' groups as what is read instead."""
        if removed is None or not self.network.ties:
            return widths
        widths = widths.copy()
        group = {each.name: i for i, each in enumerate(self.network.groups)}
        block = {each.name: i for i, each in enumerate(self.network.blocks)}
        for layer, (own, read) in self.network.ties.items():
            gone = removed[:, block[layer]]
            widths[gone, group[own]] = widths[gone, group[read]]
        return widths

    def _check_range(self, widths: np.ndarray) -> None:
        full = np.array([group.width for group in self.network.groups])
        wrong = (widths < 1) | (widths > full)
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            group = self.network.groups[column]
            raise ValueError(
                f"architecture {row}, group {group.name}: width {widths[row, column]} is outside "
                f"1 … {group.width}"
            )

    # -- building ------------------------------------------------------------------------------

    def _build_surfaces(
        self, nodes: dict[LayerSpec, float], measured: set[LayerSpec]
    ) -> dict[tuple, Surface | SparseSurface]:
        """One surface a family; `steps` says in which steps each kind of layer takes widths.

        Layers that are not `measured` here come from a prior, and count as interpolated.
        """
        self._measured: dict[LayerSpec, float] = {}
        points: dict[tuple, dict] = {}
        sparse: dict[tuple, dict] = {}
        inferred: dict[tuple, set] = {}
        for spec, share in self.shares.items():
            calibrated = self.calibration(share, nodes[spec])
            seconds = max(calibrated, _SMALLEST_SHARE * share) * self.dense_s
            widths = spec.in_channels, spec.out_channels
            may_be_sparse, may_be_plain = self._may_be(spec)
            if may_be_sparse:
                at = (*widths, spec.density)
                sparse.setdefault(("sparse", *spec.family), {})[at] = calibrated * self.dense_s
            if may_be_plain:
                points.setdefault(spec.family, {})[widths] = seconds
            if spec in measured:
                self._measured[spec] = seconds
            else:
                inferred.setdefault(spec.family, set()).add(widths)
        kinds: dict[str, list[dict]] = {}
        for (kind, *_), values in points.items():
            kinds.setdefault(kind, []).append(values)
        self.steps: dict[str, ChannelStep] = {k: find_step(v) for k, v in kinds.items()}
        if block := self.device.block:  # known, and too few plain layers are left to find it from
            self.steps |= dict.fromkeys(("conv", "depthwise"), ChannelStep(block, 1))
        dense: dict[tuple, Surface | SparseSurface] = {
            family: Surface(
                values, self.steps[family[0]], family[0] in MIXING, inferred.get(family, ())
            )
            for family, values in points.items()
        }
        return dense | {
            family: SparseSurface(values, block or 1) for family, values in sparse.items()
        }

    def _intervals(self, unseen: list[Run], design: list[Run]) -> tuple[float, float]:
        """Half-widths that hold 90 % of architectures: on the menu, and at interpolated widths.

        Without enough unseen runs (a table whose profile has not finished) twice the residual on
        the design runs, which the calibration has seen; without interpolated ones the error of a
        single interpolated layer.
        """
        self.interval_90 = self.interval_90_any = 0.0
        self._usual_interpolation = 1.0  # share of the time, of networks between the menu's widths
        between = [self.off_menu(run.architecture) for run in unseen]
        menu = [run for run, off in zip(unseen, between, strict=True) if not off]
        other = [run for run, off in zip(unseen, between, strict=True) if off]
        if len(menu) >= _FEWEST_UNSEEN:
            on_menu = holds_90(self.errors(menu))
        else:
            on_menu = 2 * holds_90(self.errors(design))
        if len(other) >= _FEWEST_UNSEEN:
            predicted = self.predict_architectures([run.architecture for run in other])
            self._usual_interpolation = max(float(np.median(predicted.interpolated)), 0.01)
            return on_menu, max(on_menu, holds_90(self.errors(other)))
        return on_menu, on_menu + self.interpolation_error

    def errors(self, runs: list[Run]) -> np.ndarray:
        """Relative errors of the predicted ratios to the dense network: (runs,)."""
        predicted = self.predict_architectures([run.architecture for run in runs]).latency_s
        return predicted / self.dense_s / np.array([run.ratio for run in runs]) - 1

    def _may_be(self, spec: LayerSpec) -> tuple[bool, bool]:
        """Whether a layer of this shape is one whose weights may be left out, or one of the others.

        Where layers of both kinds are alike but for their widths, such as the one that reads the
        image, those of the image's channels count as that one's.
        """
        if not self.sparse_layers:
            return False, True
        sparse, plain = self._families
        if spec.family in plain and spec.family in sparse and spec.kind == "conv":
            is_image = spec.in_channels == self.network.input_shape[0] and spec.density == 1
            return not is_image, is_image
        return spec.family in sparse, spec.family not in sparse

    @cached_property
    def _families(self) -> tuple[set[tuple], set[tuple]]:
        """Of the layers whose weights may be left out, and of the others."""
        specs = self.network.layer_specs(self.network.dense)
        found: tuple[set[tuple], set[tuple]] = (set(), set())
        for layer, spec in specs:
            found[layer.name not in self.sparse_layers].add(spec.family)
        return found

    def _price(
        self,
        layer: str,
        spec: LayerSpec,
        in_widths: np.ndarray,
        out_widths: np.ndarray,
        density: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """(seconds, interpolated) of a layer at other widths, NaN outside what was measured.

        Raises NotMeasured where its family is not in the table.
        """
        surface = self._surfaces.get(self._key(layer, spec))
        if surface is None:
            raise self._not_measured(layer, spec)
        if isinstance(surface, SparseSurface):
            return surface(in_widths, out_widths, density)
        return surface(in_widths, out_widths)

    def _key(self, layer: str, spec: LayerSpec) -> tuple:
        """Under which a layer's surface is kept: its family, apart where it may be sparse."""
        return ("sparse", *spec.family) if layer in self.sparse_layers else spec.family

    def _refuse_density(self, architecture: Architecture) -> None:
        sparse = [name for name, density in architecture.density.items() if density < 1]
        if sparse and not self.device.block:
            raise NotMeasured(
                f"{self._where} holds no sparse kernels, but layer {sparse[0]} has density "
                f"{architecture.density[sparse[0]]}. Leave densities out, or measure them: latprof "
                "profile --kernels block_sparse"
            )

    def _not_measured(self, layer: str, spec: LayerSpec) -> NotMeasured:
        surface = self._surfaces.get(self._key(layer, spec))
        measured = (
            f"the table covers {surface.measured_range}"
            if surface
            else "the table covers no layer of this kind"
        )
        return NotMeasured(
            f"{spec} was never measured on {self.device.name}: {measured}. Ask for a width in that "
            f"range, or finish the profile: latprof profile --network {self.network.name} --out "
            f"{Path(self._where).parent}"
        )

    def _first_not_measured(self, widths: np.ndarray, densities: np.ndarray | None) -> NotMeasured:
        names = (group.name for group in self.network.groups)
        shares = [] if densities is None else densities.tolist()
        architecture = Architecture(
            widths=dict(zip(names, map(int, widths), strict=True)),
            density=dict(zip(self.sparse_layers, shares, strict=bool(shares))),
        )
        try:
            self.layers(architecture)
        except NotMeasured as error:
            return error
        raise AssertionError("every layer is measured, yet the sum is not")


Count = Callable[..., int | np.ndarray]  # `macs` or `weights`


class _CountingModel(LatencyModel):
    """A layer costs what is counted of it; nothing is interpolated."""

    def __init__(self, model: LatencyModel, count: Count) -> None:
        self.__dict__.update(model.__dict__)
        for derived in ("terms", "_positions"):
            self.__dict__.pop(derived, None)
        self.calibration = Calibration(1.0, 0.0, 0.0, 0.0)
        self._measured = {}
        self._count = count
        dense = [spec for _, spec in self.network.layer_specs(self.network.dense)]
        self._seconds_each = self.dense_s / sum(map(self._counted, dense))

    def _counted(self, spec: LayerSpec) -> float:
        """Of one layer, what is left out not counted."""
        of_all = self._count(spec, spec.in_channels, spec.out_channels, spec.in_size)
        return float(of_all) * spec.density

    def layers(self, architecture: Architecture) -> list[LayerPrediction]:
        """Every layer's share of the dense latency by what is counted."""
        self._refuse_density(architecture)
        return [
            LayerPrediction(layer.name, spec, self._counted(spec) * self._seconds_each, False)
            for layer, spec in self.network.layer_specs(architecture)
        ]

    def _sum_layers(
        self,
        layers,
        widths: dict[str, np.ndarray],
        shape: tuple[int, ...],
        density: np.ndarray | float = 1.0,
    ):
        total = np.zeros(shape)
        for layer in layers:
            geometry = self.network.geometry[layer.name]
            forms = (geometry.in_form(widths), geometry.out_form(widths))
            total += self._count(layer, *forms, geometry.in_size) * density
        return total * self._seconds_each, np.zeros(shape)


def _are_enough(designed: Sequence[Run], levels: int) -> bool:
    """Whether as many of the design's first networks were measured as its array holds.

    They are the array's and a few others, shuffled: nearly all pairs of widths were seen then.
    Networks between the menu's widths come on top, with higher numbers.
    """
    return {*range(levels**2)} <= {run.run for run in designed}


def holds_90(errors: np.ndarray) -> float:
    """The half-width that will hold 90 % of further errors, in another process as well.

    Normal, with Student's wider tails for few errors (Cornish and Fisher's expansion, first term);
    what all networks of a process share shows only in the next process, and is added.
    """
    tails = 1 + (_NORMAL_90**2 + 1) / (4 * len(errors))
    spread = np.sqrt(np.mean(errors**2) + _BETWEEN_PROCESSES**2)
    return float(_NORMAL_90 * tails * spread)


def _require_shape(name: str, array: np.ndarray, columns: int, rows: int | None = None) -> None:
    """Raise ValueError on another shape; `rows`: any number by default."""
    if array.ndim != 2 or array.shape != (len(array) if rows is None else rows, columns):
        told = "n" if rows is None else rows
        raise ValueError(f"{name}: expected shape ({told}, {columns}), got {array.shape}")


def _densities_on_menu(
    densities: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray | None, bool]:
    """(the full one's place in DENSITIES, every density's place, whether all have one)."""
    full = np.array(len(DENSITIES) - 1)
    if densities is None:
        return full, None, True
    known = np.array(DENSITIES)
    places = np.minimum(np.searchsorted(known, densities), len(known) - 1)
    return full, places, bool((known[places] == densities).all())


def _look_up(term: Term, positions: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray | float]:
    if not positions:
        return term.seconds[()], term.interpolated_s[()]
    flat = positions[0]
    for position, size in zip(positions[1:], term.seconds.shape[1:], strict=True):
        flat = flat * size + position
    of_which = term.interpolated_s.ravel().take(flat) if term.interpolated_s.any() else 0.0
    return term.seconds.ravel().take(flat), of_which
