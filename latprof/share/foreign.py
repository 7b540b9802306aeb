"""Tables that others published, as tables of ours: JCW's of ResNet-18.

Zhao et al. 2022 (arXiv 2110.08013) published one array for a phone's processor: convolutions ×
output widths × input widths × densities, float64, read there by tri-linear interpolation. As a
table it says what the array says: designed networks are priced by it, layer by layer, and written
down as runs. What the array does not have is named, and costs nothing in the table:

- the first convolution: all its entries are 0;
- linear layers, poolings and additions: there are no entries for them;
- the unit: it is asked for (read as milliseconds, the whole network takes 373.8 where the paper
  says 537 ms);
- a dense kernel: density 1 is the same sparse kernel with nothing left out, so speedups are over
  that one.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.interpolate import RegularGridInterpolator

from latprof.profile.design import design, unseen
from latprof.profile.judge import validation
from lookup_tables.architecture import Architecture
from lookup_tables.device import Device
from lookup_tables.errors import TableError
from lookup_tables.layer import LayerSpec
from lookup_tables.model.latency_model import LatencyModel
from lookup_tables.network import Layer, Network
from lookup_tables.storage.files import only_writer
from lookup_tables.table.rows import LayerTime, Plan, Run
from lookup_tables.table.store import LatencyTable

WIDTH_SHARES = tuple(round(0.1 * i, 1) for i in range(2, 11))  # of a convolution's full widths
DENSITY_SHARES = tuple(round(0.1 * i, 1) for i in range(11))
UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
LEVELS, UNSEEN, BLOCK = 8, 30, 4  # weights of four output channels are left out together there
FREE_S = 1e-9  # what costs nothing costs: a table's seconds are positive


@dataclass(frozen=True)
class Converted:
    """What came of it: the table, layers that the array says nothing of, and the table's error
    against the array on networks that were not written down."""

    table: LatencyTable
    gaps: list[str]
    dense_s: float
    rmspe: float


def convert_jcw(
    file: str | Path,
    network: Network,
    folder: str | Path,
    unit: str,
) -> Converted:
    """A table of `network` from an array (convolutions, outputs, inputs, densities) in a .npy file.

    Convolutions come in the order of the model's modules: by name, the first one first; the axes
    stand for WIDTH_SHARES, twice, and DENSITY_SHARES. `unit`: one of UNITS. Raises TableError for
    an array that cannot be one of this network, and where `folder` holds a table of it already.
    """
    values = _read(Path(file), network)
    lowest = WIDTH_SHARES[0]
    narrow = network.with_menu(
        {g.name: tuple(w for w in g.choices if w >= lowest * g.width) for g in network.groups}
    )
    prices = _Prices(narrow, values * UNITS[unit])
    digest = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    table = LatencyTable.create(folder, _device(network.name, digest))
    if table.plan(network.name) is not None:
        raise TableError(f"{folder} holds a table of {network.name} already; give another --out")
    sparse = network.sparse_layers
    start_s = time.perf_counter()
    designed = design(narrow, LEVELS, 0, sparse)
    menu = {group.name: group.choices for group in narrow.groups}
    tests = unseen(narrow, UNSEEN, 0, designed, menu, sparse)
    plan = Plan(
        network=network.name, fingerprint=network.fingerprint, levels=LEVELS, seed=0, menu=menu
    )
    rows = [prices.run("design", i, a) for i, a in enumerate(designed)]
    held_out = [prices.run("unseen", i, a) for i, a in enumerate(tests)]
    with only_writer(table.folder):
        network.save(table.network_path(network.name))
        table.append(network.name, [plan, *rows, *held_out])
        model = LatencyModel(narrow, table)
        judged = validation(model, table, held_out, "menu", time.perf_counter() - start_s)
        table.append(network.name, [judged])
    return Converted(table, prices.gaps, prices.whole_s(network.dense), judged.rmspe)


class _Prices:
    """What the array says of a network's layers."""

    def __init__(self, network: Network, seconds: np.ndarray) -> None:
        self._network = network
        axes = (np.array(WIDTH_SHARES), np.array(WIDTH_SHARES), np.array(DENSITY_SHARES))
        self._of = {
            layer.name: RegularGridInterpolator(axes, own)
            for layer, own in zip(convolutions(network), seconds, strict=True)
            if own.any()
        }
        dense = {layer.name: spec for layer, spec in network.layer_specs(network.dense)}
        self._full = {n: (dense[n].out_channels, dense[n].in_channels) for n in self._of}
        self.gaps = [layer.name for layer in network.layers if layer.name not in self._of]

    def whole_s(self, architecture: Architecture) -> float:
        return sum(self._seconds(*each) for each in self._network.layer_specs(architecture))

    def run(self, purpose: str, number: int, architecture: Architecture) -> Run:
        """An architecture as if it had been run beside the dense network, once."""
        layers = tuple(
            LayerTime(layer=spec, seconds=self._seconds(layer, spec), nodes=1)
            for layer, spec in self._network.layer_specs(architecture)
        )
        whole_s, dense_s = sum(e.seconds for e in layers), self.whole_s(self._network.dense)
        return Run(
            purpose=purpose, run=number, architecture=architecture, dense_s=dense_s,
            whole_s=whole_s, ratio=whole_s / dense_s, pairs=1, measuring_s=whole_s + dense_s,
            layers=layers if purpose == "design" else (),
        )  # fmt: skip

    def _seconds(self, layer: Layer, spec: LayerSpec) -> float:
        if layer.name not in self._of:
            return FREE_S
        outputs, inputs = self._full[layer.name]
        point = (spec.out_channels / outputs, spec.in_channels / inputs, spec.density)
        low = (WIDTH_SHARES[0], WIDTH_SHARES[0], DENSITY_SHARES[0])
        return max(FREE_S, float(self._of[layer.name](np.maximum(point, low))[0]))


def convolutions(network: Network) -> list[Layer]:
    """A network's convolutions in the order of the model's modules: the first, then by name."""
    found = [layer for layer in network.layers if layer.kind == "conv"]
    return found[:1] + sorted(found[1:], key=lambda layer: layer.name)


def _read(path: Path, network: Network) -> np.ndarray:
    """The array, checked; raises TableError saying what of it is wrong."""
    try:
        values = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise TableError(f"{path}: no such file") from None
    except (ValueError, EOFError):  # NumPy's own words advise to unpickle it, which runs its code
        raise TableError(f"{path}: not an array of numbers in a .npy file") from None
    if not isinstance(values, np.ndarray):
        raise TableError(f"{path}: several arrays; save the one of latencies as .npy")
    axes = (len(WIDTH_SHARES), len(WIDTH_SHARES), len(DENSITY_SHARES))
    expected = (len(convolutions(network)), *axes)
    if values.shape != expected:
        raise TableError(
            f"{path}: an array of {_by(values.shape)}; of {network.name} one of {_by(expected)} is "
            "expected: convolutions × output widths × input widths × densities. Is --network right?"
        )
    if not np.issubdtype(values.dtype, np.floating):
        raise TableError(f"{path}: values of type {values.dtype}; expected floating point")
    if not np.isfinite(values).all() or (values < 0).any():
        raise TableError(f"{path}: holds values below 0 or none at all (NaN, infinite)")
    if not values.any():
        raise TableError(f"{path}: all its values are 0")
    return values.astype(float)


def _by(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))


def _device(name: str, digest: str) -> Device:
    """The phone, as far as the array tells: not at all."""
    return Device(
        name=f"jcw_{name}",
        kind="cpu",
        processor="a phone's, unnamed (JCW, arXiv 2110.08013)",
        processor_detail={"sha256": digest[:16]},
        runtime="jcw",
        runtime_version="2021",
        provider="unnamed",
        provider_options={"block": str(BLOCK), "kernels": "4x1 blocks of JCW"},
    )
