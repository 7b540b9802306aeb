import pytest
from hypothesis import given
from hypothesis import strategies as st

from latprof.detect import this_device
from latprof.errors import Throttled
from latprof.measure import ENOUGH, PATIENCE, PATIENCE_IN_PLACE, Bench, Rounds
from lookup_tables.network import Architecture
from tests.toys import tiny_network

NETWORK = tiny_network()


@pytest.fixture(scope="module")
def bench():
    return Bench(NETWORK, this_device(), target_s=0.01)


def test_every_layer_of_a_running_network_gets_a_time(bench):
    architecture = Architecture(widths={"conv1": 8}, removed=("layer1.0",))
    sample = bench.measure(architecture)
    expected = [spec for _, spec in NETWORK.layer_specs(architecture)]
    assert [entry.layer for entry in sample.layers] == expected
    assert all(entry.seconds > 0 for entry in sample.layers)
    assert sample.ratio > 0
    assert sample.pairs >= 1


def test_an_uninstrumented_run_has_whole_network_times_only(bench):
    assert bench.measure(Architecture(), instrumented=False).layers == ()


def rounds(dense, throttled=()):
    count = len(dense) - 1
    return Rounds(list(dense), [1.0] * count, [i in throttled for i in range(count)])


def test_a_round_counts_if_the_dense_network_was_quiet_before_and_after():
    kept = rounds([1.0, 1.02, 1.0, 1.5, 1.01, 1.0, 3.0]).kept(quiet_s=1.0)
    assert kept.tolist() == [True, True, False, False, True, False]


def test_throttled_rounds_never_count():
    kept = rounds([1.0] * 9, throttled={0, 3}).kept(quiet_s=1.0)
    assert kept.tolist() == [i not in {0, 3} for i in range(8)]


@given(st.lists(st.floats(0.5, 50.0), min_size=9, max_size=40), st.floats(0, 1))
def test_at_least_a_quarter_of_the_rounds_is_kept_or_enough_quiet_ones(dense, quiet_s):
    kept = rounds(dense).kept(quiet_s)
    assert kept.sum() >= ENOUGH or kept.sum() * 4 >= len(kept) - 3


def test_enough_quiet_rounds_are_not_diluted_by_many_slow_ones():
    kept = rounds([1.0] * 7 + [1.3] * 60).kept(quiet_s=1.0)
    assert kept.tolist() == [True] * 6 + [False] * 60


def test_the_dense_network_beside_a_round_is_the_mean_of_before_and_after():
    assert rounds([1.0, 2.0, 4.0]).beside_s.tolist() == [1.5, 3.0]


def test_a_disturbed_series_goes_on_in_the_hope_of_quiet_rounds(bench, monkeypatch):
    slow = iter([1.0, 1.0] * 1000)
    monkeypatch.setattr(bench, "_dense_medians", [0.5])
    monkeypatch.setattr(bench._dense[0], "run_s", lambda: next(slow))
    series = bench._rounds(bench._dense[0], lambda: 1.0)
    patience = PATIENCE if len(bench._cores) > 1 else PATIENCE_IN_PLACE
    assert len(series.pruned) == patience * bench._wanted(2.0)


@pytest.mark.parametrize(
    ("round_s", "wanted"), [(0.0001, 100), (0.01, 30), (0.02, 20), (0.1, 12), (1.0, 5)]
)
def test_slow_networks_need_fewer_rounds(bench, round_s, wanted):
    assert bench._wanted(round_s) == wanted


def test_a_gpu_that_only_throttles_is_an_error_that_says_why(bench, monkeypatch):
    monkeypatch.setattr(bench._monitor, "throttled", lambda: True)
    monkeypatch.setattr(bench._monitor, "complaint", lambda: "too hot", raising=False)
    with pytest.raises(Throttled, match="too hot"):
        bench.measure(NETWORK.dense, instrumented=False)
