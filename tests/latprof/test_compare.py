"""Which sessions of a comparison count; the timing itself runs in tests/journeys."""

from dataclasses import replace

import onnx
import pytest

from latprof import Disturbed
from latprof.onnx.writer import build
from latprof.profile.compare import MOST_REPEATS, MOST_UNCERTAIN, compare_files, require_precision
from latprof.runtimes.here import this_device
from lookup_tables.errors import DeviceMismatch
from lookup_tables.noise import Rounds, Timing, ratio_of_sessions, rounds_of_sessions
from tests.toys import chain


def session(dense_s: float, pruned_s: float = 1.0, waited_s: float = 0.0) -> Rounds:
    pruned = [Timing(pruned_s, waited_s)] * 8
    return Rounds([Timing(dense_s)] * 9, pruned, [False] * 8)


def counted(*sessions: Rounds) -> list[bool]:
    return [bool(kept.any()) for kept in rounds_of_sessions(sessions)]


def test_sessions_in_which_either_network_was_slow_do_not_count():
    assert counted(session(1.4), session(1.0), session(1.0, 1.4)) == [False, True, False]


def test_the_same_rule_holds_for_both_networks():
    sessions = [session(1.0, 1.05), session(1.05, 5.0), session(1.02, 1.0)]
    swapped = [Rounds([*r.pruned, r.pruned[0]], r.dense[1:], r.throttled) for r in sessions]
    assert counted(*sessions) == counted(*swapped) == [True, False, True]


def test_a_session_that_had_to_wait_does_not_count_however_fast_it_seems():
    assert counted(session(1.0, 0.5, waited_s=0.1), session(1.0, 1.0)) == [False, True]


def test_sessions_that_agree_are_certain_and_those_that_do_not_are_not():
    turned = [False, True, False, True, False]
    assert ratio_of_sessions([0.5, 0.502, 0.498, 0.501, 0.499], turned)[1] < MOST_UNCERTAIN
    assert ratio_of_sessions([0.5, 0.55, 0.45, 0.52, 0.47], turned)[1] > MOST_UNCERTAIN


def test_what_is_opened_first_moves_no_answer():
    ratio, error = ratio_of_sessions([0.98, 1 / 0.98, 0.98, 1 / 0.98, 0.98], [0, 1, 0, 1, 0])
    assert ratio == pytest.approx(1.0)
    assert error == pytest.approx(0.0, abs=1e-9)


def test_before_the_first_session_none_is_quiet():
    assert rounds_of_sessions([]) == []


def test_a_machine_that_never_lets_a_run_finish_is_refused_in_one_line(tmp_path, monkeypatch):
    network = chain(8, 8)
    onnx.save(build(network, network.dense), tmp_path / "net.onnx")
    always = session(1.0, 1.0, waited_s=0.5)
    monkeypatch.setattr("latprof.profile.compare._rounds", lambda *_: always)
    with pytest.raises(Disturbed, match=r"cannot be compared now.*0 of 3 sessions") as refusal:
        compare_files(tmp_path / "net.onnx", tmp_path / "net.onnx", this_device())
    assert "\n" not in str(refusal.value)


def test_a_comparison_made_in_a_slow_phase_says_so_and_what_a_quiet_one_may_give(
    tmp_path, monkeypatch
):
    network = chain(8, 8)
    onnx.save(build(network, network.dense), tmp_path / "net.onnx")
    shared = replace(session(1.0, 0.5), slowness=[1.8] * 8)
    monkeypatch.setattr("latprof.profile.compare._rounds", lambda *_: shared)
    found = compare_files(tmp_path / "net.onnx", tmp_path / "net.onnx", this_device())
    assert found.slow_phase.startswith("arithmetic takes 80% longer")
    assert (found.quiet_sessions, found.sessions) == (0, MOST_REPEATS)
    assert found.speedup == pytest.approx(2.0)
    assert found.expected_low < 2.0 < found.expected_high


def test_a_file_of_another_precision_is_not_the_devices(tmp_path):
    network = chain(8, 8)
    for precision in ("fp32", "fp16"):
        model = build(network, network.dense, 1, precision)
        onnx.save(model, tmp_path / f"{precision}.onnx")
        require_precision(tmp_path / f"{precision}.onnx", precision)
    with pytest.raises(DeviceMismatch, match="is fp32, but the device computes in fp16"):
        require_precision(tmp_path / "fp32.onnx", "fp16")
    with pytest.raises(DeviceMismatch, match="is fp16, but the device computes in fp32"):
        compare_files(tmp_path / "fp16.onnx", tmp_path / "fp16.onnx", this_device())
