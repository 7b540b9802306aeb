"""Whether something shares the core, held against earlier calls."""

import json

import pytest

from latprof.machine.pace import Pace, in_words
from latprof.runtimes.here import this_device


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.delenv("LATPROF_ANY_CORE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def filled(home):
    """The memory after one call."""
    pace = Pace(this_device())
    for _ in range(40):
        pace.now()
    pace.remember()
    (path,) = (home / "latprof").iterdir()
    return path


def test_the_arithmetic_takes_at_least_what_it_takes_on_the_quiet_machine(home):
    pace = Pace(this_device())
    assert min(pace.now() for _ in range(50)) >= 1.0


def test_a_slow_phase_that_outlasts_a_call_is_seen_by_what_earlier_calls_took(home, monkeypatch):
    (quiet_s,) = json.loads(filled(home).read_text())
    monkeypatch.setattr(Pace, "_arithmetic_s", lambda _: 1.8 * quiet_s)
    later = Pace(this_device())
    assert [later.now() for _ in range(50)] == pytest.approx([1.8] * 50)


def test_within_a_call_the_fast_moments_are_the_quiet_ones(home, monkeypatch):
    monkeypatch.setattr(Pace, "_arithmetic_s", lambda self: 2.0 if len(self._times_s) % 2 else 1.0)
    pace = Pace(this_device())
    assert [pace.now() for _ in range(44)][-4:] == [1.0, 2.0, 1.0, 2.0]


@pytest.mark.parametrize("text", ["", "[]", "{}", "[[1, 2]]", "[1, 2, -3]", '["a"]', "[[1], 2]"])
def test_a_memory_that_holds_something_else_is_no_memory(home, text):
    filled(home).write_text(text)
    assert Pace(this_device())._earlier_s == []


def test_a_home_that_cannot_be_written_is_no_fault(home):
    (home / "latprof").write_text("a file where the folder should be")
    pace = Pace(this_device())
    seen = [pace.now() for _ in range(40)]
    pace.remember()
    assert min(seen) > 0
    assert Pace(this_device())._earlier_s == []


def test_a_machine_that_is_never_quiet_can_be_measured_on_all_the_same(home, monkeypatch):
    monkeypatch.setenv("LATPROF_ANY_CORE", "1")
    pace = Pace(this_device())
    assert [pace.now() for _ in range(50)] == [1.0] * 50
    pace.remember()
    assert not (home / "latprof").exists()


def test_a_call_that_hardly_measured_is_not_worth_remembering(home):
    pace = Pace(this_device())
    pace.now()
    pace.remember()
    assert not (home / "latprof").exists()


def test_what_is_slow_is_said_in_a_users_words():
    assert "arithmetic takes 80% longer" in in_words(1.8)
