"""What the doctor says of machines that are set one way or another."""

from itertools import cycle

import pytest

from latprof.machine.load import Snapshot
from latprof.profile import doctor
from latprof.profile.doctor import examine

QUIET = Snapshot(0.0, {0: (0.0, 0.0), 1: (0.0, 0.0)}, {})


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A machine described by files; what is not written it does not tell."""
    monkeypatch.setattr(doctor, "_CPU", tmp_path)
    monkeypatch.setattr(doctor, "_PROC", tmp_path)
    monkeypatch.setattr(doctor, "PACE_S", 0.0)
    monkeypatch.setattr(doctor, "quota_cores", lambda: None)
    monkeypatch.setattr(doctor.os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.setattr(
        "latprof.machine.load.os.sched_getaffinity", lambda _: {0, 1}, raising=False
    )

    def write(**files: str) -> None:
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")

    return write


def states(monkeypatch, *snapshots: Snapshot) -> dict[str, str]:
    moments = iter(snapshots or (QUIET, QUIET))
    monkeypatch.setattr(doctor.Snapshot, "take", lambda: next(moments))
    return {finding.what: finding.state for finding in examine(watched_s=0)}


def test_what_the_system_does_not_tell_is_called_unknown_and_not_good(system, monkeypatch):
    found = states(monkeypatch)
    assert found["load"] == "good"
    for what in ("frequency governor", "turbo", "hardware threads", "idle states"):
        assert found[what] == "unknown"


def test_one_busy_core_of_two_is_doubtful_and_two_are_busy(system, monkeypatch):
    one = Snapshot(1.0, {0: (0.9, 0), 1: (0, 0)}, {7: ("loop", 0.9, 0)})
    assert states(monkeypatch, QUIET, one)["load"] == "doubtful"
    two = Snapshot(1.0, one.cores, one.processes | {8: ("loop", 0.9, 1)})
    assert states(monkeypatch, QUIET, two)["load"] == "busy"


def test_a_core_that_something_shares_is_doubtful_and_told_with_how_often(system, monkeypatch):
    paces = cycle([1.0, 1.0, 1.8])
    monkeypatch.setattr(doctor.Pace, "now", lambda _: next(paces))
    monkeypatch.setattr(doctor.Pace, "remember", lambda _: None)
    assert states(monkeypatch)["shared core"] == "doubtful"
    finding = doctor._shared_core()
    assert "arithmetic takes 80% longer" in finding.found
    assert "33% of the time" in finding.found


def test_a_core_of_our_own_is_good(system, monkeypatch):
    monkeypatch.setattr(doctor.Pace, "now", lambda _: 1.02)
    assert states(monkeypatch)["shared core"] == "good"


def test_a_quota_below_the_cores_keeps_from_measuring(system, monkeypatch):
    monkeypatch.setattr(doctor, "quota_cores", lambda: 0.5)
    assert states(monkeypatch)["CPU quota"] == "busy"


def test_the_hypervisors_share_is_told(system, monkeypatch):
    now = Snapshot(1.0, {0: (10.0, 1.0), 1: (10.0, 0.0)}, {})
    assert states(monkeypatch, QUIET, now)["stolen time"] == "doubtful"


@pytest.mark.parametrize(
    ("governor", "state"), [("performance", "good"), ("powersave", "doubtful")]
)
def test_a_governor_that_changes_clocks_is_doubtful(system, monkeypatch, governor, state):
    system(cpu0__cpufreq__scaling_governor=governor)
    assert states(monkeypatch)["frequency governor"] == state


@pytest.mark.parametrize(
    ("files", "state"),
    [
        ({"intel_pstate__no_turbo": "0"}, "doubtful"),
        ({"intel_pstate__no_turbo": "1"}, "good"),
        ({"cpufreq__boost": "1"}, "doubtful"),
        ({"cpufreq__boost": "0"}, "good"),
    ],
)
def test_turbo_is_read_as_both_makers_write_it(system, monkeypatch, files, state):
    system(**files)
    assert states(monkeypatch)["turbo"] == state


def test_another_profiler_is_waited_for(system, monkeypatch):
    system(**{"424242__cmdline": "/usr/bin/python\0/opt/bin/latprof\0profile"})
    assert states(monkeypatch)["other measurements"] == "busy"
