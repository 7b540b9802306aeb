"""What counts of what was timed, held to the null test by simulated clocks."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lookup_tables.noise import (
    ENOUGH,
    SLOW_PHASE,
    Rounds,
    Timing,
    attempts_that_count,
    is_null,
    networks_that_count,
    rounds_of_sessions,
    rounds_that_count,
    steady_mean,
    undisturbed,
)

timings = st.builds(Timing, st.floats(0.5, 50.0), st.one_of(st.just(0.0), st.floats(0, 1)))


def rounds(dense, pruned=None, throttled=()):
    count = len(dense) - 1
    pruned = pruned or [1.0] * count
    return Rounds(
        [t if isinstance(t, Timing) else Timing(t) for t in dense],
        [t if isinstance(t, Timing) else Timing(t) for t in pruned],
        [i in throttled for i in range(count)],
    )


def kept_of(one: Rounds, quiet_s: float = 1.0) -> list[bool]:
    return rounds_that_count([one], quiet_s)[0].tolist()


def test_a_run_may_wait_for_a_hundredth_of_its_time():
    assert undisturbed([Timing(1.0, 0.009), Timing(1.0, 0.02)]).tolist() == [True, False]


def test_a_timer_interrupt_does_not_disturb_a_run_of_fifty_microseconds():
    assert undisturbed([Timing(50e-6, 10e-6)]).all()


def test_a_round_counts_if_both_networks_were_quiet():
    dense = [1.0] * 8 + [1.5] + [1.0] * 3
    pruned = [1.0] * 3 + [1.4] + [1.0] * 7
    assert [i for i, k in enumerate(kept_of(rounds(dense, pruned))) if not k] == [3, 7, 8]


def test_a_round_in_which_a_network_waited_never_counts_nor_those_after_until_both_are_warm():
    waited = Timing(1.0, 0.5)
    dense = [1.0, waited, *[1.0] * 9]
    pruned = [*[1.0] * 5, waited, *[1.0] * 4]
    assert [i for i, k in enumerate(kept_of(rounds(dense, pruned))) if not k] == [0, 1, 2, 5, 6]


def test_an_interruption_between_two_runs_disturbs_those_that_follow():
    dense = [1.0, 1.0, 1.0, Timing(1.0, away_s=0.5), *[1.0] * 7]
    assert [i for i, k in enumerate(kept_of(rounds(dense))) if not k] == [2, 3]


def test_runs_of_microseconds_need_half_a_millisecond_to_be_warm_again():
    times = [Timing(50e-6, away_s=0.01), *[Timing(50e-6)] * 30]
    assert undisturbed(times).tolist() == [False] * 10 + [True] * 21


def test_a_session_of_a_slow_phase_does_not_count():
    quiet, slow = rounds([1.0] * 9), rounds([1.0] * 9, [1.2] * 8)
    assert [kept.any() for kept in rounds_of_sessions([quiet, slow])] == [True, False]


def test_attempts_count_that_met_no_slower_phase_than_the_quietest():
    assert attempts_that_count([1.0, 1.05, 1.2]).tolist() == [True, True, False]


def test_a_table_keeps_three_quarters_of_its_networks_however_slow_the_machine_was():
    kept = networks_that_count([1.0] * 2 + [1.3] * 6, [1.0, 1.0, 1.3, 1.3, 1.3, 1.3, 1.4, 1.5])
    assert kept.tolist() == [True] * 6 + [False] * 2


@given(st.lists(st.floats(0.5, 2.0), min_size=4, max_size=30))
def test_no_network_that_counts_was_slower_than_one_that_does_not(loudest):
    kept = networks_that_count(loudest, loudest)
    assert kept.sum() > int(0.75 * (len(loudest) - 1))
    assert max(np.array(loudest)[kept]) <= min([*np.array(loudest)[~kept], np.inf])


def test_rounds_on_a_shared_core_do_not_count_nor_do_those_that_only_warm_up():
    shared = replace(rounds([1.0] * 9), slowness=[1.0, 1.8, 1.0, math.inf, *[1.0] * 4])
    assert [i for i, k in enumerate(kept_of(shared)) if not k] == [1, 3]
    assert shared.shared() == [1.8]
    assert [i for i, k in enumerate(kept_of(shared.on_any_core())) if not k] == [3]


def test_each_pruned_run_is_held_against_the_dense_ones_on_both_sides():
    assert rounds([1.0, 2.0, 4.0], [2.0, 2.0]).ratio() == pytest.approx(1.0)


@given(st.lists(st.floats(0.5, 2.0), min_size=3, max_size=9).filter(lambda ts: len(ts) % 2))
def test_the_other_way_round_the_ratio_is_the_reciprocal(times):
    one = rounds(times[::2], times[1::2])
    turned = [d / p for d, p in zip(times[:-1:2], times[1::2], strict=True)]
    turned += [d / p for d, p in zip(times[2::2], times[1::2], strict=True)]
    logs = np.log(turned)
    low, high = np.sort(logs)[[(len(logs) - 1) // 2, len(logs) // 2]]
    assert -high - 1e-9 <= np.log(one.ratio()) <= -low + 1e-9


def test_a_network_is_itself_within_three_percent_either_way():
    assert [is_null(ratio) for ratio in (1.029, 1 / 1.029, 1.04, 1 / 1.04)] == [True] * 2 + [
        False
    ] * 2


def test_a_steady_mean_leaves_out_an_eighth_at_the_fast_end_and_a_quarter_at_the_slow_one():
    assert steady_mean(np.array([0.1, 1.0, 2.0, 1.0, 2.0, 1.0, 9.0, 9.0])) == pytest.approx(1.4)


def test_where_every_round_waited_none_counts():
    assert not any(kept_of(rounds([Timing(1.0, 0.5)] * 9)))


def test_throttled_rounds_never_count():
    assert kept_of(rounds([1.0] * 13, throttled={0, 3})) == [i not in {0, 3} for i in range(12)]


def test_enough_quiet_rounds_are_not_diluted_by_many_slow_ones():
    assert sum(kept_of(rounds([1.0] * 7 + [1.3] * 60))) == ENOUGH


def test_the_dense_network_beside_a_round_is_the_mean_of_before_and_after():
    assert rounds([1.0, 2.0, 4.0]).beside_s.tolist() == [1.5, 3.0]


@pytest.mark.parametrize("factor", [SLOW_PHASE - 0.01, SLOW_PHASE + 0.01])
def test_the_same_limit_holds_for_both_networks_of_a_session(factor):
    usual = rounds([1.0] * 9)
    slow = rounds([factor] * 9), rounds([1.0] * 9, [factor] * 8)
    found = [rounds_of_sessions([usual, each])[1].any() for each in slow]
    assert found == [factor < SLOW_PHASE] * 2


@given(st.lists(timings, min_size=5, max_size=40).filter(lambda ts: len(ts) % 2))
def test_no_disturbed_round_ever_counts(times):
    one = rounds(times, times[1:])
    (kept,) = rounds_that_count([one])
    assert not (kept & ~one.undisturbed()).any()


def clock(kind: str, rng: np.random.Generator, run_s: float):
    """A network of `run_s` on a simulated machine; each call is one run."""
    now_s, slice_s = 0.0, 0.003
    since = 9  # runs since the last interruption between two runs

    def run() -> Timing:
        nonlocal now_s, since
        took_s, waited_s, away_s = run_s * rng.lognormal(0, 0.004), 0.0, 0.0
        if kind == "preemption":  # runs for a slice, then waits for two others'
            slices = int((now_s + took_s) // slice_s) - int(now_s // slice_s)
            waited_s = 2 * slice_s * slices
        elif kind == "between runs":  # the same where the system is called; caches are empty then
            if int((now_s + took_s) // slice_s) > int(now_s // slice_s):
                away_s, since = 2 * slice_s, 0
            took_s *= {0: 1.4, 1: 1.15}.get(since, 1.0)
            since += 1
        elif kind == "steal" and rng.random() < 0.3:
            waited_s = took_s * rng.uniform(0.05, 0.3)
        elif kind == "drift":
            took_s *= 1 + 0.1 * now_s
        elif kind == "throttling" and now_s > 0.4:
            took_s *= 1.25
        elif kind == "two states" and int(now_s / 0.05) % 2:
            took_s *= 1.4
        now_s += took_s
        return Timing(took_s + waited_s, waited_s, away_s)

    return run


KINDS = ("idle", "preemption", "between runs", "steal", "drift", "throttling", "two states")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("run_s", [0.00005, 0.0005, 0.002, 0.005, 0.1])
def test_a_network_against_itself_is_one_or_refused_whatever_the_machine_does(kind, run_s):
    for seed in range(5):
        run = clock(kind, np.random.default_rng(seed), run_s)
        dense, pruned = [run()], []
        for _ in range(80):
            pruned.append(run())
            dense.append(run())
        one = Rounds(dense, pruned, [False] * 80)
        (kept,) = rounds_that_count([one])
        if not kept.sum():
            assert kind in ("preemption", "between runs"), "only what outlasts a slice is refused"
            assert run_s >= 0.0005
            continue
        ratio = one.ratio(kept)
        assert ratio == pytest.approx(1, abs=0.01 if kind == "idle" else 0.03)
