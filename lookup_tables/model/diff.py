"""Two tables of one network compared: which entries differ beyond what measuring again would do?

Compared are shares of the dense network; that the whole became slower is said by itself
(`whole_differs`). An entry's noise has two parts. Within a table: the spread of a layer's times
over the runs that hold it, pooled over layers of like duration. Between processes: what another
session's memory placement and another hour change; it comes from `latprof repeat` where that was
run, else from BETWEEN. An entry is flagged where the difference exceeds MEANINGFUL and what noise
reaches once in 200 comparisons of whole tables (Bonferroni's bound over the entries): for some
hundred entries on a shared CPU that takes a change by about a quarter, on a quiet device with
repeats a tenth.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from lookup_tables.errors import TableError
from lookup_tables.layer import LayerSpec
from lookup_tables.model.latency_model import LatencyModel
from lookup_tables.network import Network
from lookup_tables.table.repeats import Repeatability
from lookup_tables.table.rows import Run
from lookup_tables.table.settled import undisturbed
from lookup_tables.table.store import LatencyTable, repeats_path

BETWEEN = 0.04  # relative, of one entry between processes on a shared machine
MEANINGFUL = 0.10  # smaller differences are never called changes
WHOLE = 0.20  # the dense network on a shared machine has phases of hours within this
FALSE_ALARM = 0.005  # chance of any flag when a table is compared with its own repeat
NETWORKS = 200  # random architectures whose predictions are compared
_MEDIAN_COST = 1.25  # a median's standard error over a mean's


@dataclass(frozen=True, slots=True)
class EntryDifference:
    """One layer in both tables, as shares of the dense network."""

    spec: LayerSpec
    first_s: float
    second_s: float
    ratio: float  # of the shares: second / first
    noise: float  # relative standard deviation that chance gives this ratio
    differs: bool


@dataclass(frozen=True, slots=True)
class TableDifference:
    """What differs between two tables of one network."""

    entries: tuple[EntryDifference, ...]
    only_first: int  # entries on the menu that the other table lacks
    only_second: int
    dense_ratio: float  # the dense network: second / first
    median_change: float  # of random networks' speedups, absolute relative
    worst_change: float
    device: dict[str, tuple[object, object]]  # field → (first, second)

    @property
    def whole_differs(self) -> bool:
        """Whether the dense network itself became faster or slower beyond a machine's moods."""
        return abs(float(np.log(self.dense_ratio))) > float(np.log1p(WHOLE))

    @property
    def changed(self) -> tuple[EntryDifference, ...]:
        return tuple(entry for entry in self.entries if entry.differs)


def compare_tables(network: Network, first: LatencyTable, second: LatencyTable) -> TableDifference:
    """Compare the measured entries of two tables; raises TableError if either is unfinished."""
    shares = [_shares(table, network) for table in (first, second)]
    common = [spec for spec in shares[0] if spec in shares[1]]
    if not common:
        raise TableError(
            f"{first.path(network.name)} and {second.path(network.name)} have no entry in common. "
            "Profile both with the same --levels"
        )
    noise = [_within(measured) for measured in shares]
    between = max(between_processes(table, network.name) for table in (first, second))
    limit = NormalDist().inv_cdf(1 - FALSE_ALARM / (2 * len(common)))
    models = [LatencyModel(network, table) for table in (first, second)]
    entries = []
    for spec in common:
        a, b = (float(np.median(measured[spec])) for measured in shares)
        counts = [len(measured[spec]) for measured in shares]
        variance = 2 * between**2 + sum(
            (_MEDIAN_COST * of(share)) ** 2 / n
            for of, share, n in zip(noise, (a, b), counts, strict=True)
        )
        sigma = float(np.sqrt(variance))
        change = float(np.log(b / a))
        entries.append(
            EntryDifference(
                spec=spec,
                first_s=a * models[0].dense_s,
                second_s=b * models[1].dense_s,
                ratio=b / a,
                noise=sigma,
                differs=abs(change) > max(limit * sigma, float(np.log1p(MEANINGFUL))),
            )
        )
    changes = np.abs(speedups(network, models[1]) / speedups(network, models[0]) - 1)
    return TableDifference(
        entries=tuple(entries),
        only_first=len(shares[0]) - len(common),
        only_second=len(shares[1]) - len(common),
        dense_ratio=models[1].dense_s / models[0].dense_s,
        median_change=float(np.median(changes)),
        worst_change=float(changes.max()),
        device=first.device.differences(second.device),
    )


def speedups(network: Network, model: LatencyModel, seed: int = 0) -> np.ndarray:
    """Predicted speedups of random architectures, half on the menu, half at any width: (n,)."""
    rng = np.random.default_rng(seed)
    half = NETWORKS // 2
    menu = [rng.choice(group.choices, half) for group in network.groups]
    free = [
        rng.integers(
            max(-(-group.width // 4), model.lowest_widths[group.name]), group.width + 1, half
        )
        for group in network.groups
    ]
    widths = np.concatenate([np.stack(menu, axis=1), np.stack(free, axis=1)])
    return model.dense_s / model.predict(widths).latency_s


def entry_shares(table: LatencyTable, network: Network) -> dict[LayerSpec, float]:
    """Every measured entry that more than one run holds: its share of the dense network."""
    return {spec: float(np.median(v)) for spec, v in _shares(table, network).items()}


def between_processes(table: LatencyTable, network: str) -> float:
    """The relative spread of an entry between processes, from the table's own repeats if any.

    The 95th percentile over entries: the calmer ones are not what raises false alarms.
    """
    repeats = Repeatability.load(repeats_path(table.folder, network))
    return BETWEEN if repeats is None else repeats.entries.p95_spread


def _shares(table: LatencyTable, network: Network) -> dict[LayerSpec, list[float]]:
    """LayerSpec → shares of the dense network, one per run; layers fused away are left out."""
    runs: list[Run] = undisturbed(table.settled_runs(network, "design"))
    shares: dict[LayerSpec, list[float]] = {}
    for run in runs:
        for entry in run.layers:
            if entry.nodes:
                shares.setdefault(entry.layer, []).append(entry.seconds / run.dense_s)
    return {spec: values for spec, values in shares.items() if len(values) > 1}


def _within(shares: dict[LayerSpec, list[float]]):
    """share → relative standard deviation of one run: a constant part and one that short layers
    suffer more from, fitted to all layers at once."""
    typical = np.array([np.median(values) for values in shares.values()])
    spread = np.array(
        [1.4826 * np.median(np.abs(np.array(v) / np.median(v) - 1)) for v in shares.values()]
    )
    features = np.stack([np.ones_like(typical), 1 / typical], axis=1)
    scale = np.abs(features).max(axis=0)
    weights, *_ = np.linalg.lstsq(features / scale, spread, rcond=None)
    weights = np.maximum(weights / scale, [0.01, 0])
    return lambda share: float(weights[0] + weights[1] / share)
