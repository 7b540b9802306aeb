"""The profiler on a tiny network, with the real runtime."""

import os
import signal
import subprocess
import sys
import time

import pytest

from latprof import profile as journey
from latprof.detect import this_device
from latprof.profile import architectures, profile
from lookup_tables.errors import DeviceMismatch, TableError
from lookup_tables.estimate import LatencyModel
from lookup_tables.table import LatencyTable, Validation
from pruner.trace import trace
from tests.toys import DEVICE, tiny_resnet

NETWORK = trace(tiny_resnet(), (1, 8, 8), "tiny").network
OPTIONS = {"levels": 2, "samples": 4, "budget_s": 300.0}


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Rows are wanted here, not good ones."""
    monkeypatch.setattr(journey, "TARGET_S", 0.01)


def test_a_profile_writes_every_run_and_the_tables_own_error(tmp_path):
    seen = []
    result = profile(
        NETWORK, this_device(), tmp_path / "t", report=lambda *args: seen.append(args), **OPTIONS
    )
    table = LatencyTable.open(tmp_path / "t")
    plan = table.plan("tiny")
    chosen = architectures(NETWORK, plan)
    for purpose, expected in chosen.items():
        found = table.settled_runs(NETWORK, purpose)
        assert [run.architecture for run in found] == expected
    assert isinstance(table.rows("tiny")[-1], Validation)
    assert table.validation("tiny") == result
    assert result.architectures == 4
    assert LatencyModel(NETWORK, table).latency_s(NETWORK.dense) > 0
    assert seen[-1][0] == seen[-1][1]  # progress ends at its total


def test_a_finished_profile_is_not_measured_again(tmp_path, monkeypatch):
    first = profile(NETWORK, this_device(), tmp_path / "t", **OPTIONS)
    content = (tmp_path / "t" / "tiny.jsonl").read_bytes()
    monkeypatch.setattr(journey, "_most_doubtful", lambda *_: None)
    assert profile(NETWORK, this_device(), tmp_path / "t", **OPTIONS) == first
    assert (tmp_path / "t" / "tiny.jsonl").read_bytes() == content


def test_an_interrupted_profile_continues_with_what_is_missing(tmp_path, monkeypatch):
    real, calls = journey.Bench.measure, []

    def interrupted(self, architecture, instrumented=True):
        calls.append(architecture)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(self, architecture, instrumented)

    monkeypatch.setattr(journey.Bench, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        profile(NETWORK, this_device(), tmp_path / "t", **OPTIONS)
    table = LatencyTable.open(tmp_path / "t")
    kept = table.runs(NETWORK)
    assert len(kept) == 4
    profile(NETWORK, this_device(), tmp_path / "t", **OPTIONS)
    table = LatencyTable.open(tmp_path / "t")
    assert table.runs(NETWORK)[:4] == kept
    total = sum(map(len, architectures(NETWORK, table.plan("tiny")).values()))
    assert len({(run.purpose, run.run) for run in table.runs(NETWORK)}) == total


def test_a_killed_profile_loses_at_most_the_row_being_written(tmp_path):
    NETWORK.save(tmp_path / "tiny.json")
    command = [
        sys.executable, "-m", "latprof", "profile", "--network", str(tmp_path / "tiny.json"),
        "--levels", "2", "--samples", "40", "--budget", "300s", "--out", str(tmp_path / "t"),
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    path = tmp_path / "t" / "tiny.jsonl"
    while process.poll() is None and not (path.exists() and path.read_bytes().count(b"\n") >= 3):
        time.sleep(0.005)  # waits for another process, measures nothing
    assert process.poll() is None, "it ended before it could be killed"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = path.read_bytes()
    complete = before[: before.rfind(b"\n") + 1]
    profile(NETWORK, this_device(), tmp_path / "t", **(OPTIONS | {"samples": 40}))
    assert path.read_bytes().startswith(complete)
    assert LatencyTable.open(tmp_path / "t").validation("tiny") is not None


def test_a_spent_budget_keeps_what_was_measured_and_says_so(tmp_path):
    options = OPTIONS | {"budget_s": 1e-3}
    with pytest.raises(TableError, match=r"1 of 18 runs measured; they are kept"):
        profile(NETWORK, this_device(), tmp_path / "t", **options)
    assert len(LatencyTable.open(tmp_path / "t").runs(NETWORK)) == 1


def test_a_table_begun_with_other_options_is_not_continued(tmp_path):
    table = LatencyTable.create(tmp_path / "t", this_device())
    journey._keep_plan(table, NETWORK, levels=4, samples=4, seed=0)
    with pytest.raises(TableError, match="begun with 4 levels"):
        profile(NETWORK, this_device(), tmp_path / "t", **OPTIONS)


def test_a_table_of_another_device_is_not_written_into(tmp_path):
    LatencyTable.create(tmp_path / "t", DEVICE)
    with pytest.raises(DeviceMismatch, match="processor: expected"):
        profile(NETWORK, this_device(), tmp_path / "t", **OPTIONS)
