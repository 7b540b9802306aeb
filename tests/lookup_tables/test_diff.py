import dataclasses

import numpy as np
import pytest

from lookup_tables.errors import TableError
from lookup_tables.model.diff import compare_tables, entry_shares
from lookup_tables.network import Network
from lookup_tables.table.repeats import Repeatability, Spread
from lookup_tables.table.rows import Run
from lookup_tables.table.store import LatencyTable, repeats_path
from tests.toys import synthetic_table

NETWORK = Network.load("resnet20")


def disturbed_copy(table, folder, seed, noise=0.02, slower=1.0, kind=None):
    """The table as measured again: every layer a little off, one kind of layer slower."""
    rng = np.random.default_rng(seed)
    copy = LatencyTable.create(folder, table.device)
    rows = []
    for row in table.rows(NETWORK.name):
        if isinstance(row, Run) and row.layers:
            layers = tuple(
                entry.model_copy(
                    update={
                        "seconds": entry.seconds
                        * float(np.exp(rng.normal(0, noise)))
                        * (slower if entry.layer.in_size == kind else 1)
                    }
                )
                for entry in row.layers
            )
            row = row.model_copy(update={"layers": layers})
        rows.append(row)
    copy.append(NETWORK.name, rows)
    return copy


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    clean = synthetic_table(tmp_path_factory.mktemp("clean"), NETWORK, levels=4)
    return disturbed_copy(clean, tmp_path_factory.mktemp("t") / "a", seed=1)


@pytest.mark.parametrize("seed", range(5))
def test_a_table_compared_with_its_own_repeat_raises_no_alarm(table, tmp_path, seed):
    again = disturbed_copy(table, tmp_path / "b", seed=100 + seed, noise=0.03)
    difference = compare_tables(NETWORK, table, again)
    assert len(difference.entries) > 50
    assert difference.changed == ()
    assert difference.median_change < 0.01


def test_layers_that_became_slower_are_found_and_no_others(table, tmp_path):
    slower = disturbed_copy(table, tmp_path / "b", seed=2, slower=1.5, kind=(16, 16))
    difference = compare_tables(NETWORK, table, slower)
    assert difference.changed
    assert {entry.spec.in_size for entry in difference.changed} == {(16, 16)}
    found = len(difference.changed)
    there = sum(entry.spec.in_size == (16, 16) for entry in difference.entries)
    assert found > 0.9 * there


def test_a_table_is_equal_to_itself(table):
    difference = compare_tables(NETWORK, table, table)
    assert all(entry.ratio == 1 for entry in difference.entries)
    assert difference.worst_change == 0
    assert difference.device == {}


def test_repeats_that_scattered_more_raise_the_bar(table, tmp_path):
    slower = disturbed_copy(table, tmp_path / "b", seed=2, slower=1.3, kind=(16, 16))
    assert compare_tables(NETWORK, table, slower).changed
    spread = Spread(count=9, median_spread=0.1, p95_spread=0.2, worst_spread=0.3)
    path = repeats_path(slower.folder, NETWORK.name)
    Repeatability(
        network=NETWORK.name, tables=2, entries=spread, predictions=spread, flagged=(0,)
    ).save(path)
    assert not compare_tables(NETWORK, table, slower).changed
    path.write_text(path.read_text()[:60])
    with pytest.raises(TableError, match=r"repeats\.json: .* Delete it, then run `latprof repeat`"):
        compare_tables(NETWORK, table, slower)


def test_devices_of_two_tables_are_compared_field_by_field(table, tmp_path):
    other = table.device.model_copy(update={"threads": 2, "session_options": {"spinning": "on"}})
    moved = LatencyTable.create(tmp_path / "b", other)
    moved.append(NETWORK.name, table.rows(NETWORK.name))
    difference = compare_tables(NETWORK, table, moved)
    assert difference.device == {
        "threads": (1, 2),
        "session_options.spinning": (None, "on"),
    }


def test_tables_without_a_common_entry_are_refused(table, tmp_path):
    empty = LatencyTable.create(tmp_path / "b", table.device)
    rows = [
        row.model_copy(update={"layers": ()}) if isinstance(row, Run) else row
        for row in table.rows(NETWORK.name)
    ]
    empty.append(NETWORK.name, rows)
    with pytest.raises(TableError, match="have no entry in common"):
        compare_tables(NETWORK, table, empty)


def test_only_layers_that_several_runs_hold_are_compared(table):
    held = entry_shares(table, NETWORK)
    counts = {}
    for run in table.settled_runs(NETWORK, "design"):
        for entry in run.layers:
            counts[entry.layer] = counts.get(entry.layer, 0) + 1
    assert set(held) == {spec for spec, count in counts.items() if count > 1}


def test_a_difference_holds_plain_values(table):
    difference = compare_tables(NETWORK, table, table)
    assert isinstance(dataclasses.asdict(difference)["dense_ratio"], float)
