"""Prior: what a table of another device says of a network's layers, as a start for this one's.

On a device of a kind already known a layer takes a multiple of what it takes there. The multiple
differs between kinds of layers, families (one layer at other widths) and classes of widths (those
that the runtime takes in whole steps, and others), and changes slowly with the widths. A Gaussian
process over its logarithm learns it from the layers of a few networks, and answers for all layers
of the other table (Rasmussen and Williams, "Gaussian Processes for Machine Learning" (2006),
equation 2.25). docs/decisions/transfer.md says what it is worth.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lookup_tables.device import Device
from lookup_tables.errors import TableError
from lookup_tables.files import first_fault, refuse_newer, write_whole
from lookup_tables.layer import LayerSpec
from lookup_tables.manifest import read_sealed
from lookup_tables.surface import MIXING, ChannelStep, Surface

if TYPE_CHECKING:
    from lookup_tables.estimate import LatencyModel

FORMAT = 1
# Relative standard deviations of the multiple: what layers of the whole network have in common,
# those of one kind, of one family, of one class of widths, and of like widths.
_ALL, _KIND, _FAMILY = 0.5, 0.3, 0.3
_CLASS, _CLASS_OF_FAMILY = 0.3, 0.3
_NEAR, _NEAR_OF_KIND = 0.2, 0.15
_LENGTH, _LENGTH_OF_KIND = 1.0, 2.0  # octaves of width over which multiples resemble each other
_NOISE, _FLOOR = 0.1, 0.03  # of a layer in one run, and what more runs do not mend
_INTERPOLATED = 0.07  # of what the other table says of widths it did not measure

Shares = dict[LayerSpec, float]


class PriorLayer(BaseModel):
    """One layer's share of the dense network, raw as it was timed, and its runtime nodes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer: LayerSpec
    share: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    nodes: Annotated[float, Field(ge=0)]


class Prior(BaseModel):
    """What one table says of one network; kept beside the rows that it helps to read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    device: Device
    fingerprint: str  # of the network
    steps: dict[str, tuple[int, int]]  # kind of layer → block, alignment
    layers: tuple[PriorLayer, ...]

    @classmethod
    def of(cls, model: LatencyModel) -> Prior:
        return cls(
            device=model.device,
            fingerprint=model.network.fingerprint,
            steps={kind: tuple(step) for kind, step in model.steps.items()},
            layers=tuple(
                PriorLayer(layer=spec, share=share, nodes=model.nodes[spec])
                for spec, share in model.shares.items()
            ),
        )

    @classmethod
    def load(cls, path: Path) -> Prior:
        """Read a prior; raises TableError, and FileNotFoundError if there is none."""
        text = read_sealed(path)
        refuse_newer(path, text, FORMAT, TableError)
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise TableError(f"{path}: {first_fault(error)}") from None

    def save(self, path: Path) -> None:
        """One layer a line."""
        data = self.model_dump(mode="json", exclude_none=True, exclude={"layers"})
        head = ",\n".join(
            f" {json.dumps(name)}: {json.dumps(value)}" for name, value in data.items()
        )
        rows = ",\n".join(
            f'  {{"layer": {json.dumps(one.layer.to_json())}, "share": {one.share!r}, '
            f'"nodes": {one.nodes!r}}}'
            for one in self.layers
        )
        write_whole(path, f'{{\n{head},\n "layers": [\n{rows}\n ]\n}}\n')

    def corrected(
        self, shares: Shares, nodes: Shares, counts: Mapping[LayerSpec, int]
    ) -> tuple[Shares, Shares]:
        """Shares and nodes of every layer of either, as this device has them.

        `shares`, `nodes`: what was measured here; `counts`: by how many runs.
        """
        known = {one.layer: one for one in self.layers}
        there, interpolated = self._shares_of([*shares])
        here = np.array([*shares.values()])
        prior_nodes = {spec: one.nodes for spec, one in known.items()}
        fused = [prior_nodes.get(spec) == 0 or nodes.get(spec) == 0 for spec in shares]
        usable = ~(np.isnan(there) | fused)  # what was fused away has a token, not a time
        seen = [spec for spec, use in zip(shares, usable, strict=True) if use]
        ratio = np.log(here[usable] / there[usable])
        noise = _NOISE**2 / np.array([counts[spec] for spec in seen]) + _FLOOR**2
        noise += np.where(interpolated[usable], _INTERPOLATED**2, 0.0)
        gram = self._kernel(seen, seen) + np.diag(noise)
        logs = self._kernel([*known], seen) @ np.linalg.solve(gram, ratio)
        answer = {
            spec: one.share * float(np.exp(log))
            for (spec, one), log in zip(known.items(), logs, strict=True)
        }
        used = {*seen}
        own = {s: share for s, share in shares.items() if s not in known or s not in used}
        return answer | own, prior_nodes | nodes

    def _shares_of(self, specs: Sequence[LayerSpec]) -> tuple[np.ndarray, np.ndarray]:
        """(the other device's shares, whether interpolated): (specs,); NaN where it has none."""
        points: dict[tuple, dict] = {}
        for one in self.layers:
            widths = (one.layer.in_channels, one.layer.out_channels)
            points.setdefault(one.layer.family, {})[widths] = one.share
        surfaces = {
            family: Surface(
                values, ChannelStep(*self.steps.get(family[0], (1, 1))), family[0] in MIXING
            )
            for family, values in points.items()
        }
        shares, interpolated = np.full(len(specs), np.nan), np.ones(len(specs), dtype=bool)
        for i, spec in enumerate(specs):
            if spec.family in surfaces:
                x, y = np.array([spec.in_channels]), np.array([spec.out_channels])
                (shares[i],), (interpolated[i],) = surfaces[spec.family](x, y)
        return shares, interpolated

    def _kernel(self, left: Sequence[LayerSpec], right: Sequence[LayerSpec]) -> np.ndarray:
        """Covariance of the log multiples: (left, right)."""
        kind, family, classes = (
            _same([key(spec) for spec in left], [key(spec) for spec in right])
            for key in (lambda s: s.kind, lambda s: s.family, self._classes)
        )
        apart = sum(
            np.subtract.outer(np.log2([w(s) for s in left]), np.log2([w(s) for s in right])) ** 2
            for w in (lambda s: s.in_channels, lambda s: s.out_channels)
        )
        near, near_of_kind = (np.exp(-0.5 * apart / n**2) for n in (_LENGTH, _LENGTH_OF_KIND))
        return (
            _ALL**2
            + kind * (_KIND**2 + _NEAR_OF_KIND**2 * near_of_kind)
            + family * (_FAMILY**2 + _NEAR**2 * near)
            + classes * (_CLASS**2 + _CLASS_OF_FAMILY**2 * family)
        )

    def _classes(self, spec: LayerSpec) -> tuple:
        step = ChannelStep(*self.steps.get(spec.kind, (1, 1)))
        widths = np.array([spec.in_channels, spec.out_channels])
        return (spec.kind, *map(int, step.classes(widths)))


def _same(left: Sequence, right: Sequence) -> np.ndarray:
    """Whether two keys are equal, as 0 and 1: (left, right)."""
    numbers = {key: number for number, key in enumerate({*left, *right})}
    one, other = (np.array([numbers[key] for key in keys]) for keys in (left, right))
    return np.equal.outer(one, other).astype(float)
