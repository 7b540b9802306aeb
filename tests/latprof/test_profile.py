"""The profiler on a tiny network, with the real runtime."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from latprof import Disturbed
from latprof.profile import journey as journey
from latprof.profile import plan
from latprof.profile.design import design, unseen
from latprof.profile.journey import Goal, profile
from latprof.runtimes.here import this_device
from lookup_tables.errors import DeviceMismatch, TableError
from lookup_tables.model.latency_model import LatencyModel
from lookup_tables.storage.provenance import written_by
from lookup_tables.table.rows import Validation
from lookup_tables.table.store import LatencyTable
from tests.hasty import HASTY, in_haste
from tests.toys import DEVICE, chain, tiny_network

ROOT = Path(__file__).parents[2]
NETWORK = tiny_network()
GOAL = Goal(samples=6)
OPTIONS = {"levels": 2, "goal": GOAL}


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Rows are wanted here, not good ones."""
    in_haste(monkeypatch)


def test_a_profile_writes_every_run_and_the_tables_own_error(tmp_path):
    seen = []
    outcome = profile(
        NETWORK, this_device(), tmp_path / "t", report=lambda *args: seen.append(args), **OPTIONS
    )
    table = LatencyTable.open(tmp_path / "t")
    designed = design(NETWORK, 2, 0)
    found = [run.architecture for run in table.settled_runs(NETWORK, "design")]
    assert found[: len(designed)] == designed
    assert len(found) == len(designed) + plan.LEGS
    tests = [run.architecture for run in table.settled_runs(NETWORK, "unseen")]
    assert tests == unseen(NETWORK, 12, 0, designed, table.plan("tiny").menu)
    assert isinstance(table.rows("tiny")[-1], Validation)
    assert table.validation("tiny", "menu") == outcome.menu
    assert table.validation("tiny", "any") == outcome.any
    assert outcome.stopped == "complete"
    judged = (outcome.menu, outcome.any)
    assert [each.architectures + each.dropped for each in judged] == [6, 6]
    assert LatencyModel(NETWORK, table).latency_s(NETWORK.dense) > 0
    assert all(done <= total for done, total, _ in seen)
    assert seen[-1][:2] == (1, 1)


def test_networks_between_the_menus_widths_are_among_the_designed_ones(tmp_path):
    profile(NETWORK, this_device(), tmp_path / "t", **OPTIONS)
    table = LatencyTable.open(tmp_path / "t")
    model = LatencyModel(NETWORK, table)
    between = [model.off_menu(run.architecture) for run in table.settled_runs(NETWORK, "design")]
    assert sum(between) >= plan.LEGS - 1


def test_a_finished_profile_is_not_measured_again(tmp_path):
    first = profile(NETWORK, this_device(), tmp_path / "t", **OPTIONS)
    content = (tmp_path / "t" / "tiny.jsonl").read_bytes()
    assert profile(NETWORK, this_device(), tmp_path / "t", **OPTIONS) == first
    assert (tmp_path / "t" / "tiny.jsonl").read_bytes() == content


def test_runs_judged_by_another_model_keep_the_date_of_their_measuring(tmp_path):
    first = profile(NETWORK, this_device(), tmp_path / "t", **OPTIONS)
    table = LatencyTable.open(tmp_path / "t")
    former = {"measured_at": "2020-01-01T00:00:00+00:00", "peak_memory_bytes": 7, "rmspe": 9.0}
    earlier = [v.model_copy(update=former) for v in (first.menu, first.any)]
    table.append("tiny", earlier)  # as a former model judged, long ago
    again = profile(NETWORK, this_device(), tmp_path / "t", **OPTIONS)
    for now, measured, old in zip(
        (again.menu, again.any), (first.menu, first.any), earlier, strict=True
    ):
        assert now.rmspe == measured.rmspe
        assert (now.measured_at, now.peak_memory_bytes) == (old.measured_at, 7)
        assert now.measuring_s == old.measuring_s
    assert LatencyTable.open(tmp_path / "t").validation("tiny", "any") == again.any


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
    keys = [(run.purpose, run.run, run.attempt) for run in table.runs(NETWORK)]
    assert len(set(keys)) == len(keys)


def test_a_profile_says_at_its_start_what_else_the_machine_does(tmp_path, monkeypatch):
    busy = "another process (python, 7) uses 92% of core 1"
    monkeypatch.setattr(journey, "disturbances", lambda *_: [busy])
    warned = []
    outcome = profile(NETWORK, this_device(), tmp_path / "t", **OPTIONS, warn=warned.append)
    (text,) = warned
    assert f"this machine is busy: {busy}" in text
    assert outcome.menu.null_ratio == outcome.any.null_ratio == pytest.approx(1, abs=0.031)
    assert outcome.menu.unselected_rmspe > 0


def test_a_profile_on_which_a_network_is_not_itself_measures_nothing(tmp_path, monkeypatch):
    def refuse(self):
        raise Disturbed("too busy")

    monkeypatch.setattr(journey.Bench, "check", refuse)
    with pytest.raises(Disturbed):
        profile(NETWORK, this_device(), tmp_path / "t", **OPTIONS)
    assert LatencyTable.open(tmp_path / "t").runs(NETWORK) == []


def test_a_killed_profile_loses_at_most_the_row_being_written(tmp_path):
    NETWORK.save(tmp_path / "tiny.json")
    command = [
        *HASTY, "profile", "--network", str(tmp_path / "tiny.json"),
        "--levels", "2", "--samples", "6", "--out", str(tmp_path / "t"),
    ]  # fmt: skip
    path = tmp_path / "t" / "tiny.jsonl"
    moments = random.Random(0)
    complete = b""
    for _ in range(2):
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
        rows = complete.count(b"\n") + moments.randint(1, 4)
        while process.poll() is None and not (
            path.exists() and path.read_bytes().count(b"\n") >= rows
        ):
            time.sleep(0.005)  # waits for another process, measures nothing
        assert process.poll() is None, "it ended before it could be killed"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        before = path.read_bytes()
        assert before.startswith(complete)
        complete = before[: before.rfind(b"\n") + 1]
    profile(NETWORK, this_device(), tmp_path / "t", **OPTIONS)
    assert path.read_bytes().startswith(complete)
    assert LatencyTable.open(tmp_path / "t").validation("tiny") is not None


def test_an_error_that_is_reached_ends_the_profile_early(tmp_path, monkeypatch):
    monkeypatch.setattr(journey, "FEWEST_JUDGED", 1)
    goal = Goal(error=0.99, samples=6)
    outcome = profile(NETWORK, this_device(), tmp_path / "t", levels=2, goal=goal)
    table = LatencyTable.open(tmp_path / "t")
    assert outcome.stopped == "error"
    assert len(table.settled_runs(NETWORK, "design")) < len(design(NETWORK, 2, 0))
    before = len(table.runs(NETWORK))
    # The same goal is reached already; another one continues the same table.
    content = table.path("tiny").read_bytes()
    assert profile(NETWORK, this_device(), tmp_path / "t", levels=2, goal=goal) == outcome
    assert table.path("tiny").read_bytes() == content
    again = profile(NETWORK, this_device(), tmp_path / "t", **OPTIONS)
    assert again.stopped == "complete"
    assert len(LatencyTable.open(tmp_path / "t").runs(NETWORK)) > before


def test_a_budget_ends_the_profile_with_the_error_reached(tmp_path, monkeypatch):
    clock = iter(range(0, 100_000, 10))  # every look at it costs ten seconds
    monkeypatch.setattr(journey.Journey, "_spent_s", lambda self: float(next(clock)))
    outcome = profile(
        NETWORK, this_device(), tmp_path / "t", levels=2, goal=Goal(budget_s=300.0, samples=6)
    )
    assert outcome.stopped == "budget"
    assert outcome.menu.architectures > 0


def test_a_budget_too_small_to_predict_from_keeps_what_was_measured_and_says_so(tmp_path):
    goal = Goal(budget_s=1e-9)
    with pytest.raises(
        TableError, match=r"0 design networks and 0 held-out networks .* larger --budget"
    ):
        profile(NETWORK, this_device(), tmp_path / "t", levels=2, goal=goal)
    kept = LatencyTable.open(tmp_path / "t").load_network(NETWORK.name)
    assert kept.fingerprint == NETWORK.fingerprint, "so that its name is enough to continue"


@pytest.mark.parametrize("count", [1, 4, 5, 66, 200])
def test_the_legs_share_all_designed_networks_and_begin_with_the_dense_one(count):
    numbers = [n for leg in range(plan.LEGS) for n in plan.share([0] * count, leg)]
    assert numbers == [*range(count)]
    assert 0 in plan.share([0] * count, 0)


def test_what_is_measured_next_is_not_what_the_table_is_judged_by(tmp_path):
    few = chain(8, 8)  # one group of eight widths
    profile(few, this_device(), tmp_path / "t", levels=2, goal=Goal(samples=2))
    table = LatencyTable.open(tmp_path / "t")
    design, judged = (
        {run.architecture.model_dump_json() for run in table.runs(few, purpose)}
        for purpose in ("design", "unseen")
    )
    assert judged
    assert not design & judged


def test_a_table_begun_with_other_options_is_not_continued(tmp_path):
    table = LatencyTable.create(tmp_path / "t", this_device())
    plan.keep_plan(table, NETWORK, levels=4, seed=0)
    with pytest.raises(TableError, match="begun with 4 levels"):
        profile(NETWORK, this_device(), tmp_path / "t", **OPTIONS)


def test_a_refused_profile_changes_no_file(tmp_path):
    profile(NETWORK, this_device(), tmp_path / "t", **OPTIONS)
    before = {path.name: path.read_bytes() for path in (tmp_path / "t").iterdir()}
    menus = {g.name: tuple(w for w in (g.width // 4, g.width) if w) for g in NETWORK.groups}
    with pytest.raises(TableError, match="candidate widths, or this version's choice of networks"):
        profile(NETWORK.with_menu(menus), this_device(), tmp_path / "t", **OPTIONS)
    assert {path.name: path.read_bytes() for path in (tmp_path / "t").iterdir()} == before


def test_a_table_of_another_device_is_not_written_into(tmp_path):
    LatencyTable.create(tmp_path / "t", DEVICE)
    with pytest.raises(DeviceMismatch, match="processor: expected"):
        profile(NETWORK, this_device(), tmp_path / "t", **OPTIONS)


def test_a_table_that_an_earlier_version_began_goes_on_and_every_row_says_who_measured(tmp_path):
    older = this_device().model_copy(update={"tool_version": "0.0.1"})
    LatencyTable.create(tmp_path / "t", older)
    profile(NETWORK, this_device(), tmp_path / "t", **OPTIONS)
    rows = LatencyTable.open(tmp_path / "t").runs(NETWORK)
    assert {row.measured_by for row in rows} == {written_by()}
    for row in rows:
        whole = [session for session in row.sessions if session.timed == "whole"]
        assert sum(session.rounds for session in whole) == row.pairs
        assert [s.timed for s in row.sessions].count("layers") == bool(row.layers)


def test_the_network_measured_next_is_the_one_the_table_is_least_sure_of(tmp_path):
    profile(NETWORK, this_device(), tmp_path / "t", **OPTIONS)
    made = journey.Journey(
        NETWORK, this_device(), tmp_path / "t", 2, GOAL, 0, None, lambda *_: None
    )
    leg = plan.LEGS  # one that was not run
    model = made._model()
    for job in made._least_sure(leg):
        rng = journey.np.random.default_rng([0, 3, job.run])
        draw = journey.OFF_MENU[job.run % 4]
        drawn = [draw(NETWORK, rng) for _ in range(journey.CANDIDATES)]
        most = max(model.spreads(drawn))
        assert model.spreads([job.architecture])[0] == pytest.approx(most)
