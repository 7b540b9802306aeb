"""Who took the processors, in a user's words."""

import os
import subprocess
import sys
import time

import pytest

from latprof.machine import load as machine
from latprof.machine.load import Snapshot, Waits, disturbances, quota_cores


def test_a_run_that_slept_waited_and_one_that_worked_did_not():
    waits = Waits(threads=1)
    assert waits.timed(time.sleep, 0.02).waited_s >= 0.02
    worked = waits.timed(sum, range(300_000))
    assert worked.waited_s < worked.seconds


def test_what_passes_between_two_runs_is_told_with_the_second():
    waits = Waits(threads=1)
    waits.timed(sum, range(100))
    time.sleep(0.02)
    assert waits.timed(sum, range(100)).away_s >= 0.02
    assert waits.timed(sum, range(100)).away_s < 0.02


def test_another_threads_time_in_the_queue_counts_where_this_one_worked(monkeypatch):
    waits = Waits(threads=1)
    queued = iter([2.0, 2.2])
    monkeypatch.setattr(waits, "_queued_s", lambda: next(queued))
    assert waits.timed(sum, range(100)).waited_s == pytest.approx(0.2)


def test_a_busy_process_is_named_with_its_core():
    before = Snapshot(0.0, {0: (0.0, 0.0)}, {7: ("loop (1)", 1.0, 0)})
    after = Snapshot(10.0, {0: (9.2, 0.0)}, {7: ("loop (1)", 10.2, 0)})
    assert disturbances(before, after) == ["another process (loop (1), 7) uses 92% of core 0"]


def test_a_quota_comes_first_and_stolen_time_is_told(monkeypatch):
    monkeypatch.setattr(machine, "quota_cores", lambda: 0.5)
    before = Snapshot(0.0, {0: (0.0, 0.0)}, {7: ("loop", 0.0, 0)})
    after = Snapshot(10.0, {0: (9.0, 0.8)}, {7: ("loop", 9.0, 0)}, throttled_s=5.0)
    assert disturbances(before, after) == [
        "a CPU quota of 0.5 cores stopped it for 50% of the time",
        "another process (loop, 7) uses 90% of core 0",
        "the hypervisor took 8% of core 0's time",
    ]


def test_this_process_disturbs_nobody():
    before = Snapshot(0.0, {0: (0.0, 0.0)}, {os.getpid(): ("python", 0.0, 0)})
    after = Snapshot(1.0, {0: (1.0, 0.0)}, {os.getpid(): ("python", 1.0, 0)})
    assert disturbances(before, after) == []


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs Linux's /proc")
def test_a_real_busy_loop_is_found():
    loop = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        before = Snapshot.take()
        time.sleep(0.5)  # the loop's time, not this test's
        found = disturbances(before, Snapshot.take())
    finally:
        loop.kill()
        loop.wait()
    assert any(str(loop.pid) in text for text in found)


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "50000 100000"}, 0.5),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu.cfs_quota_us": "150000", "cpu.cfs_period_us": "100000"}, 1.5),
        ({"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000"}, None),
    ],
)
def test_a_quota_is_read_from_control_groups_of_both_versions(files, cores, tmp_path, monkeypatch):
    for name, text in files.items():
        (tmp_path / name).write_text(text + "\n")
    monkeypatch.setattr(machine, "_groups", lambda: [tmp_path])
    assert quota_cores() == cores
