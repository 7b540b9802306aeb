"""Tables of a machine with noise, slow phases and outliers, where the truth is known."""

import numpy as np
import pytest

from latprof.profile.design import unseen
from lookup_tables.model.latency_model import LatencyModel
from lookup_tables.network import Network
from lookup_tables.table.rows import Run
from lookup_tables.table.store import LatencyTable
from tests.toys import synthetic_table, true_s

NETWORK = Network.load("resnet20")
NOISE = 0.01  # of a ratio; a layer's is three times as much


def noisy(folder, seed: int, phases: float = 0.0, outliers: float = 0.0) -> LatencyTable:
    """A table whose every run scatters; some met a slow phase, a few are wrong alone."""
    perfect = synthetic_table(folder / f"perfect{seed}", NETWORK, levels=4, samples=40, off_menu=30)
    rng = np.random.default_rng(seed)
    made = LatencyTable.create(folder / f"noisy{seed}", perfect.device)
    rows = [_disturbed(row, rng, phases, outliers) for row in perfect.rows(NETWORK.name)]
    made.append(NETWORK.name, rows)
    return made


def _disturbed(row, rng, phases: float, outliers: float):
    if not isinstance(row, Run):
        return row
    slow = 1.0 + 0.3 * (rng.random() < phases)  # the dense network tells it
    wrong = 1.0 + 0.3 * (rng.random() < outliers)  # nothing tells it
    ratio = row.ratio * np.exp(rng.normal(0, NOISE)) * wrong * slow**0.5
    dense_s = row.dense_s * slow
    layers = tuple(
        entry.model_copy(
            update={"seconds": entry.seconds * slow * float(np.exp(rng.normal(0, 3 * NOISE)))}
        )
        for entry in row.layers
    )
    return row.model_copy(
        update={"ratio": ratio, "dense_s": dense_s, "whole_s": ratio * dense_s, "layers": layers}
    )


def errors(table: LatencyTable, count: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """(relative errors, whether the 90 % interval holds the truth) of networks never seen."""
    model = LatencyModel(NETWORK, table)
    fresh = unseen(NETWORK, count, 99)
    found = model.predict_architectures(fresh)
    truth = np.array([true_s(NETWORK, architecture) for architecture in fresh])
    truth *= model.dense_s / true_s(NETWORK, NETWORK.dense)  # ratios are what a table knows
    held = (found.low_s <= truth) & (truth <= found.high_s)
    return found.latency_s / truth - 1, held


@pytest.mark.parametrize(
    ("phases", "outliers"), [(0.0, 0.0), (0.2, 0.0), (0.0, 0.03)], ids=["noise", "phases", "wrong"]
)
def test_noise_slow_phases_and_outliers_hardly_move_predictions(tmp_path, phases, outliers):
    found, _ = errors(noisy(tmp_path, 1, phases, outliers))
    assert np.sqrt(np.mean(found**2)) < 0.02


def test_the_interval_holds_what_it_promises_over_many_tables(tmp_path):
    held = np.concatenate([errors(noisy(tmp_path, seed))[1] for seed in range(5)])
    assert held.mean() >= 0.9
