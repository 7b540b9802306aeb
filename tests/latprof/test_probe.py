"""How fast the machine is just now, held against earlier days."""

import json

import numpy as np
import pytest

from latprof.detect import this_device
from latprof.probe import Speed, in_words


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def test_what_a_quiet_machine_takes_is_remembered_from_call_to_call(home, monkeypatch):
    earlier = Speed(this_device())
    earlier.probe()
    earlier.remember()
    (path,) = (home / "latprof").iterdir()
    (row,) = json.loads(path.read_text())
    assert len(row) == 3
    assert min(row) > 0
    monkeypatch.setattr("latprof.probe._least_s", lambda _: 10.0)  # a far slower day
    now = Speed(this_device())
    now.probe(), now.probe()
    (slowness,) = now.slowness()
    assert (slowness > 1.1).all()


def test_of_the_probes_around_a_session_the_faster_one_counts(home, monkeypatch):
    times = iter([1.0] * 3 + [2.0] * 3 + [2.0] * 3)
    monkeypatch.setattr("latprof.probe._least_s", lambda _: next(times))
    speed = Speed(this_device())
    for _ in range(3):
        speed.probe()
    first, second = speed.slowness()
    assert first[0] < second[0]


@pytest.mark.parametrize("text", ["", "[]", "{}", "[[1, 2]]", "[[1, 2, -3]]", "[[1, 2, 3], [1]]"])
def test_a_memory_that_holds_something_else_is_no_memory(home, text):
    one = Speed(this_device())
    one.probe()
    one.remember()
    (path,) = (home / "latprof").iterdir()
    path.write_text(text)
    assert Speed(this_device())._earlier == []


def test_a_home_that_cannot_be_written_is_no_fault(home):
    (home / "latprof").write_text("a file where the folder should be")
    speed = Speed(this_device())
    speed.probe()
    speed.remember()


def test_what_is_slow_is_said_in_a_users_words():
    assert in_words([1.0, 1.0, 1.0]) == ""
    said = in_words(np.array([1.29, 1.0, 1.5]))
    assert "arithmetic takes 29% longer" in said
    assert "reading memory at random takes 50% longer" in said
