"""How a table's own error is summed up."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from latprof.profile.judge import coverage_of_90, is_disturbed, rank_correlation
from lookup_tables.architecture import Architecture
from lookup_tables.table.rows import Run, Session


def test_ties_count_alike_in_whatever_order_they_come():
    a = np.array([1.0, 2.0, 2.0, 2.0, 3.0, 3.0])
    b = np.array([1.0, 3.0, 2.0, 1.5, 4.0, 5.0])
    found = rank_correlation(a, b)
    assert found == pytest.approx(spearmanr(a, b).statistic)
    for order in ([0, 3, 2, 1, 5, 4], [0, 2, 1, 3, 4, 5]):
        assert rank_correlation(a[order], b[order]) == pytest.approx(found)


@given(st.lists(st.integers(0, 5), min_size=2, max_size=20), st.randoms())
def test_a_rank_correlation_does_not_depend_on_the_order(values, random):
    a = np.array(values, dtype=float)
    b = np.array([value % 3 for value in values], dtype=float)
    order = list(range(len(a)))
    random.shuffle(order)
    assert rank_correlation(a[order], b[order]) == pytest.approx(rank_correlation(a, b))


@pytest.mark.parametrize("values", [[1.0], [2.0, 2.0, 2.0]])
def test_where_there_is_no_order_it_is_0(values):
    assert rank_correlation(np.array(values), np.array(values)) == 0.0


def test_coverage_is_asked_of_networks_that_the_interval_was_not_made_from():
    rng = np.random.default_rng(0)
    covered = [coverage_of_90(0.02 * rng.standard_normal(30)) for _ in range(200)]
    assert 0.88 < np.mean(covered) < 0.99
    halves = np.array([0.01, 0.5] * 10)  # one half says nothing of the other
    assert coverage_of_90(halves) == 0.5
    assert coverage_of_90(np.full(8, 0.01)) is None


def attempt(pairs, of, dense_s=1e-3):
    session = Session(
        timed="whole", rounds=pairs, of=of, dense_s=dense_s, ratio=0.5, spread=0.01,
        unselected_ratio=0.5,
    )  # fmt: skip
    return Run(
        purpose="unseen", run=0, architecture=Architecture(), dense_s=dense_s, whole_s=dense_s / 2,
        ratio=0.5, pairs=pairs, measuring_s=0.1, sessions=(session,),
    )  # fmt: skip


def test_a_network_of_which_few_rounds_counted_is_measured_again_until_there_are_enough():
    few, enough = attempt(6, of=60), attempt(30, of=200)
    quiet = {1: [enough]}
    assert is_disturbed([few], quiet | {0: [few]})
    assert not is_disturbed([enough], quiet)
    assert not is_disturbed([few, few, attempt(9, of=60)], quiet)  # 21 rounds in all
    assert not is_disturbed([attempt(6, of=7)], quiet)  # a slow network has few, and all count


def test_a_network_that_only_met_slow_phases_is_disturbed():
    quiet, slow = attempt(30, of=30), attempt(30, of=30, dense_s=1.2e-3)
    assert is_disturbed([slow], {0: [slow], 1: [quiet]})
    assert not is_disturbed([slow, quiet], {0: [slow, quiet]})
