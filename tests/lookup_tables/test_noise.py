"""What counts of what was timed, held to the null test by simulated clocks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lookup_tables.noise import ENOUGH, Rounds, Timing, rounds_that_count, undisturbed

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


def test_a_round_in_which_a_network_waited_never_counts_nor_one_that_follows():
    waited = Timing(1.0, 0.5)
    dense = [1.0, waited, *[1.0] * 9]
    pruned = [*[1.0] * 5, waited, *[1.0] * 4]
    assert [i for i, k in enumerate(kept_of(rounds(dense, pruned))) if not k] == [0, 1, 5, 6]


def test_where_every_round_waited_none_counts():
    assert not any(kept_of(rounds([Timing(1.0, 0.5)] * 9)))


def test_throttled_rounds_never_count():
    assert kept_of(rounds([1.0] * 13, throttled={0, 3})) == [i not in {0, 3} for i in range(12)]


def test_enough_quiet_rounds_are_not_diluted_by_many_slow_ones():
    assert sum(kept_of(rounds([1.0] * 7 + [1.3] * 60))) == ENOUGH


def test_the_dense_network_beside_a_round_is_the_mean_of_before_and_after():
    assert rounds([1.0, 2.0, 4.0]).beside_s.tolist() == [1.5, 3.0]


@given(st.lists(timings, min_size=5, max_size=40).filter(lambda ts: len(ts) % 2))
def test_no_disturbed_round_ever_counts(times):
    one = rounds(times, times[1:])
    (kept,) = rounds_that_count([one])
    assert not (kept & ~one.undisturbed()).any()


def clock(kind: str, rng: np.random.Generator, run_s: float):
    """A network of `run_s` on a simulated machine; each call is one run."""
    now_s, slice_s = [0.0], 0.003

    def run() -> Timing:
        took_s, waited_s = run_s * rng.lognormal(0, 0.004), 0.0
        if kind == "preemption":  # runs for a slice, then waits for two others'
            slices = int((now_s[0] + took_s) // slice_s) - int(now_s[0] // slice_s)
            waited_s = 2 * slice_s * slices
        elif kind == "steal" and rng.random() < 0.3:
            waited_s = took_s * rng.uniform(0.05, 0.3)
        elif kind == "drift":
            took_s *= 1 + 0.1 * now_s[0]
        elif kind == "throttling" and now_s[0] > 0.4:
            took_s *= 1.25
        elif kind == "two states" and int(now_s[0] / 0.05) % 2:
            took_s *= 1.4
        now_s[0] += took_s
        return Timing(took_s + waited_s, waited_s)

    return run


KINDS = ("idle", "preemption", "steal", "drift", "throttling", "two states")


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
            assert kind == "preemption", "only a run longer than its slice is refused"
            assert run_s >= 0.002
            continue
        ratio = float(np.median(one.pruned_s[kept] / one.beside_s[kept]))
        assert ratio == pytest.approx(1, abs=0.01 if kind == "idle" else 0.03)
