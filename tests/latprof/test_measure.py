import math
from itertools import pairwise
from types import SimpleNamespace

import pytest

from latprof import Disturbed, Throttled
from latprof.profile.bench import FEWEST_KEPT, LAYERS, WAIT_FOR_CORE_S, WAIT_S, WHOLE, Bench
from latprof.profile.rounds import FOR_A_CORE, PATIENCE, PATIENCE_IN_PLACE
from latprof.runtimes.here import this_device
from lookup_tables.architecture import Architecture
from lookup_tables.noise import Streak, Timing
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


def test_a_disturbed_series_goes_on_in_the_hope_of_quiet_rounds(bench, monkeypatch):
    monkeypatch.setattr(bench, "_dense_medians", [0.5])
    monkeypatch.setattr(bench._dense[0], "run", lambda: Timing(1.0))
    series = bench._rounds(bench._dense[0], lambda: Timing(1.0))
    patience = PATIENCE if len(bench._cores) > 1 else PATIENCE_IN_PLACE
    assert len(series.pruned) == patience * bench._planned(2.0)


def test_a_series_whose_every_round_waits_is_given_up_early(bench):
    series = bench._rounds(bench._dense[0], lambda: Timing(1.0, waited_s=0.5))
    assert len(series.pruned) == bench._planned(1.0)


def test_a_series_on_a_shared_core_goes_on_for_longer_and_counts_nothing(bench, monkeypatch):
    monkeypatch.setattr(bench, "_dense_medians", [])
    monkeypatch.setattr(bench._dense[0], "run", lambda: Timing(1.0))
    monkeypatch.setattr(bench._pace, "now", lambda: 1.8)
    series = bench._rounds(bench._dense[0], lambda: Timing(1.0))
    patience = PATIENCE if len(bench._cores) > 1 else PATIENCE_IN_PLACE
    assert len(series.pruned) == FOR_A_CORE * patience * bench._planned(2.0)
    assert not series.calm().any()


def test_a_quiet_series_ends_when_three_fifths_of_the_planned_rounds_counted(bench, monkeypatch):
    monkeypatch.setattr(bench, "_dense_medians", [])
    monkeypatch.setattr(bench._dense[0], "run", lambda: Timing(0.01))
    series = bench._rounds(bench._dense[0], lambda: Timing(0.01))
    assert len(series.pruned) == math.ceil(0.6 * bench._planned(0.02))


@pytest.mark.parametrize("share", [WHOLE, LAYERS])
def test_a_slow_network_gets_as_many_rounds_as_must_count(bench, monkeypatch, share):
    monkeypatch.setattr(bench, "_dense_medians", [])
    monkeypatch.setattr(bench._dense[0], "run", lambda: Timing(0.2))
    monkeypatch.setattr(bench._pace, "now", lambda: 1.0)
    series = bench._rounds(bench._dense[0], lambda: Timing(0.2), share)
    assert series.calm().sum() >= FEWEST_KEPT


def test_a_neighbour_on_the_core_is_waited_for_and_named(bench, monkeypatch):
    waits = []
    monkeypatch.setattr("latprof.profile.bench.time.sleep", waits.append)
    monkeypatch.setattr("latprof.profile.rounds.FOR_A_CORE", 1)
    monkeypatch.setattr(bench._pace, "now", lambda: 1.8)
    with pytest.raises(Disturbed, match="arithmetic takes 80% longer"):
        bench.measure(NETWORK.dense, instrumented=False)
    assert waits == [*WAIT_S, *WAIT_FOR_CORE_S]


def test_of_short_runs_several_go_by_before_notes_are_taken_and_the_first_only_warms_up(
    bench, monkeypatch
):
    monkeypatch.setattr(bench, "_dense_medians", [])
    monkeypatch.setattr(bench._dense[0], "run", lambda: Timing(0.5e-3))
    series = bench._rounds(bench._dense[0], lambda: Timing(0.5e-3))
    warming = [i for i, slowness in enumerate(series.slowness) if math.isinf(slowness)]
    assert warming[0] == 1
    assert all(later - earlier == 24 for earlier, later in pairwise(warming))
    assert not series.calm()[warming].any()


def test_a_machine_that_stays_busy_is_refused_after_some_patience(bench, monkeypatch):
    waits = []
    monkeypatch.setattr("latprof.profile.bench.time.sleep", waits.append)
    monkeypatch.setattr(Streak, "saw", lambda *_: False)
    with pytest.raises(Disturbed, match=r"too busy to measure on: .* the same command again"):
        bench.measure(NETWORK.dense, instrumented=False)
    assert waits == [*WAIT_S]


def test_the_dense_network_beside_itself_is_one(bench):
    assert bench.check() == pytest.approx(1, abs=0.031)


def test_a_machine_on_which_a_network_is_not_itself_is_refused(bench, monkeypatch):
    monkeypatch.setattr("latprof.profile.bench.time.sleep", lambda _: None)
    wrong = SimpleNamespace(ratio=1.05)
    monkeypatch.setattr(bench, "_measure", lambda *_, **__: wrong)
    with pytest.raises(Disturbed, match=r"timed against itself, takes 1\.050 times as long"):
        bench.check()


def test_dense_sessions_are_opened_anew_once_that_is_a_small_part_of_the_time(bench):
    before = [*bench._dense]
    bench._since_renewal_s = 0.0
    bench.measure(NETWORK.dense, instrumented=False)
    assert all(new is old for new, old in zip(bench._dense, before, strict=True))
    bench._since_renewal_s = 1e3 * bench.opening_s
    bench.measure(NETWORK.dense, instrumented=False)
    assert len(bench._dense) == len(before)
    assert sum(session in before for session in bench._dense) == len(before) - 1
    assert bench._since_renewal_s < 1e3 * bench.opening_s


@pytest.mark.parametrize(
    ("round_s", "planned"), [(0.0001, 100), (0.01, 30), (0.02, 20), (0.1, 12), (1.0, 5)]
)
def test_slow_networks_need_fewer_rounds(bench, round_s, planned):
    assert bench._planned(round_s) == planned


def test_a_gpu_that_only_throttles_is_an_error_that_says_why(bench, monkeypatch):
    monkeypatch.setattr(bench._monitor, "throttled", lambda: True)
    monkeypatch.setattr(bench._monitor, "complaint", lambda: "too hot", raising=False)
    with pytest.raises(Throttled, match="too hot"):
        bench.measure(NETWORK.dense, instrumented=False)
