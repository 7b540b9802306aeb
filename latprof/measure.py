"""Measuring one pruned network beside the dense one, in place and in pairs.

Each round runs the dense network and then the pruned one; a second series of rounds does the same
with the runtime's profiler on in the pruned one. Everything is stored relative to the dense
network of the same round: machines drift by 5 – 15 % within minutes, ratios hardly do. Rounds in
which the dense network itself was slow are set aside, because in a disturbed phase even the ratio
shifts by several percent. The two series are kept apart because a third network between the two
changes what they find in the caches (benchmarks/interference.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np

from latprof.attribution import attribute
from latprof.cpu import Instrumented, Running
from latprof.onnx_model import build, random_input
from lookup_tables.device import Device
from lookup_tables.network import INPUT, Architecture, Network
from lookup_tables.table import LayerTime

WARM_UP, FEWEST, MOST = 3, 12, 500  # rounds
QUIET = 1.08  # a round counts when the dense network took at most this much of its quiet time


@dataclass(frozen=True, slots=True)
class Sample:
    """One pruned network's times; see lookup_tables.table.Run for the meaning of the fields."""

    dense_s: float
    whole_s: float
    ratio: float
    pairs: int
    layers: tuple[LayerTime, ...]
    measuring_s: float

    def fields(self) -> dict:
        return {field.name: getattr(self, field.name) for field in fields(self)}


def quiet_rounds(dense_s: np.ndarray, quiet_s: float) -> np.ndarray:
    """Rounds whose dense run was near the quiet level: (n,) booleans, at least a quarter."""
    level = max(quiet_s, float(np.percentile(dense_s, 25)))
    return dense_s <= QUIET * level


class Bench:
    """The dense network, open and warm, and the quiet level seen so far."""

    def __init__(self, network: Network, device: Device, target_s: float) -> None:
        """`target_s`: how long one series of rounds may take when nothing disturbs."""
        self.network, self.device, self.target_s = network, device, target_s
        self._feed = {INPUT: random_input(network, device.batch, device.precision)}
        self._dense = Running(self._build(network.dense), self._feed, device)
        for _ in range(WARM_UP):
            self._dense.run_s()
        self._dense_medians: list[float] = []

    def measure(self, architecture: Architecture, instrumented: bool = True) -> Sample:
        """Run an architecture beside the dense network until enough quiet rounds are in."""
        start_s = time.perf_counter()
        model = self._build(architecture)
        dense_s, whole_s = self._rounds(Running(model, self._feed, self.device).run_s)
        quiet = self.is_quiet(dense_s)
        self._dense_medians.append(float(np.median(dense_s)))
        layers = self._layer_times(architecture, model) if instrumented else ()
        return Sample(
            dense_s=float(np.median(dense_s[quiet])),
            whole_s=float(np.median(whole_s[quiet])),
            ratio=float(np.median(whole_s[quiet] / dense_s[quiet])),
            pairs=int(quiet.sum()),
            layers=layers,
            measuring_s=time.perf_counter() - start_s,
        )

    def _layer_times(self, architecture: Architecture, model: bytes) -> tuple[LayerTime, ...]:
        profiled = Instrumented(model, self._feed, self.device)
        dense_s, _ = self._rounds(profiled.run_s)
        nodes = profiled.node_times(dense_s, self.is_quiet(dense_s))
        return attribute(nodes, self.network.layer_specs(architecture))

    def is_quiet(self, dense_s: np.ndarray) -> np.ndarray:
        """Which rounds to keep: (n,) booleans, at least a quarter of them."""
        return quiet_rounds(dense_s, self._quiet_s())

    def _quiet_s(self) -> float:
        return float(np.percentile(self._dense_medians, 20)) if self._dense_medians else 0.0

    def _rounds(self, run_pruned_s: Callable[[], float]) -> tuple[np.ndarray, np.ndarray]:
        """Seconds of (dense, pruned), each (rounds,); the warm-up is left out."""
        for _ in range(WARM_UP):
            self._round(run_pruned_s)
        rows = [self._round(run_pruned_s)]
        wanted = int(np.clip(self.target_s / sum(rows[0]), FEWEST, MOST))
        limit_s = self._quiet_s() * QUIET or np.inf
        # In a slow phase go on for three times as long, in the hope of quiet rounds.
        while len(rows) < 3 * wanted:
            rows.append(self._round(run_pruned_s))
            if len(rows) >= wanted and sum(dense_s <= limit_s for dense_s, _ in rows) >= wanted:
                break
        dense_s, pruned_s = np.array(rows).T
        return dense_s, pruned_s

    def _round(self, run_pruned_s: Callable[[], float]) -> tuple[float, float]:
        return self._dense.run_s(), run_pruned_s()

    def _build(self, architecture: Architecture) -> bytes:
        model = build(self.network, architecture, self.device.batch, self.device.precision)
        return model.SerializeToString()
