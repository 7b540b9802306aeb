"""What is added to the house in one place appears everywhere."""

import json
from dataclasses import replace

import pytest

from latprof.runtimes import RUNTIMES
from lookup_tables.registry import OwnSettings
from lookup_tables.table.store import LatencyTable
from pruner.cli import build_app
from pruner.criteria import CRITERIA
from pruner.search.methods import METHODS
from pruner.train.tasks import TASKS
from tests.commands import prune_arguments
from tests.hasty import in_haste
from tests.house import toy_criterion, toy_method, toy_runtime, toy_task


@pytest.fixture
def toys(monkeypatch):
    """Each toy is a file and one line here."""
    monkeypatch.setenv("COLUMNS", "200")
    added = [
        (METHODS, METHODS.add(toy_method.METHOD)),
        (CRITERIA, CRITERIA.add(toy_criterion.CRITERION)),
        (TASKS, TASKS.add(toy_task.TASK)),
        (RUNTIMES, RUNTIMES.add(toy_runtime.RUNTIME)),
    ]
    yield
    for registry, entry in added:
        registry.remove(entry.name)


@pytest.mark.usefixtures("toys")
def test_a_new_method_criterion_and_task_stand_in_the_help(pruner, capsys):
    assert pruner("prune", "--help") == 0
    shown = _flat(capsys.readouterr().out)
    assert "ends (both ends of the menu)" in shown
    assert "first (the first channels stay)" in shown
    assert "ordinal (a class, or one near it)" in shown
    assert "--with-narrowest" in shown
    assert "One of ddpg, td3, sac, cma. Usually ddpg." in shown
    assert "For --method ends: Whether the narrowest network is scored too. Usually yes." in shown
    assert "For --task ordinal: Classes that a right answer may be away. Usually 1." in shown


@pytest.mark.usefixtures("toys")
def test_a_run_by_them_ends_in_a_report_that_names_them(workshop, tmp_path, pruner, capsys):
    own = {"method": "ends", "criterion": "first", "task": "ordinal", "slack": 2}
    options = prune_arguments(workshop, tmp_path / "run", **own)
    assert pruner("prune", *options) == 0
    assert "test share near enough" in _flat(capsys.readouterr().out)
    report = (tmp_path / "run" / "report.html").read_text()
    assert "--method ends" in report
    assert "--criterion first" in report
    assert "--task ordinal --slack 2" in report
    assert "test share near enough" in report
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["task"], result["metric"]) == ("ordinal", "share near enough")
    assert result["accuracy"]["fine_tuned"] == pytest.approx(result["accuracy"]["exported"])
    evaluate = ["evaluate", "--run", tmp_path / "run", "--data", "digits", "--no-onnx", "--json"]
    capsys.readouterr()
    for more, expected in (([], result["accuracy"]["fine_tuned"]), (["--slack", 9], 1.0)):
        assert pruner(*evaluate, *more) == 0
        assert json.loads(capsys.readouterr().out)["accuracy"] == expected, "the run's own slack"
    front = json.loads((tmp_path / "run" / "front.json").read_text())["points"]
    assert [point["latency_ms"] for point in front] == sorted(p["latency_ms"] for p in front)
    assert f"front of {len(front)} networks" in report


@pytest.mark.usefixtures("toys")
def test_their_settings_have_no_effect_elsewhere_and_that_is_said(
    workshop, tmp_path, pruner, capsys
):
    options = prune_arguments(workshop, tmp_path / "run", method="uniform")
    assert pruner("prune", *options, "--no-with-narrowest") == 1
    error = capsys.readouterr().err
    assert "--with-narrowest has no effect with --method uniform; it applies to ends" in error
    assert pruner("prune", *options, "--slack", -1, "--task", "ordinal") == 2
    assert "--slack" in _flat(capsys.readouterr().err)


@pytest.mark.usefixtures("toys")
def test_a_new_runtime_measures_a_table_of_its_own(
    workshop, tmp_path, latprof, capsys, monkeypatch
):
    in_haste(monkeypatch)
    assert latprof("profile", "--help") == 0
    assert "slowpoke (a toy of the tests)" in _flat(capsys.readouterr().out)
    out = tmp_path / "table"
    network = workshop / "small_resnet.json"
    options = ["--network", network, "--levels", 3, "--samples", 6, "--budget", "10s"]
    assert latprof("profile", *options, "--runtime", "slowpoke", "--out", out) == 0
    device = LatencyTable.open(out).device
    assert (device.runtime, device.name) == ("slowpoke", "slowpoke_1t")
    assert latprof("card", out, "--no-pictures") == 0
    assert ", slowpoke 1" in (out / "README.md").read_text()
    assert latprof("profile", *options, "--out", out) == 3, "another runtime is another device"
    assert "runtime: expected onnxruntime, found slowpoke" in capsys.readouterr().err


def test_a_runtime_that_is_not_there_is_refused_with_those_that_are(latprof, capsys):
    assert latprof("devices", "--runtime", "abacus") == 3
    assert "--runtime abacus: expected one of onnxruntime" in capsys.readouterr().err


def test_a_setting_of_two_kinds_of_choice_is_refused_before_a_command_guesses():
    class Slack(OwnSettings):
        slack: int = 0

    METHODS.add(replace(METHODS["random"], name="slack", settings=Slack))
    TASKS.add(toy_task.TASK)
    try:
        with pytest.raises(ValueError, match="slack is a setting of --method slack and --task ord"):
            build_app()
    finally:
        METHODS.remove("slack")
        TASKS.remove("ordinal")


def test_no_two_entries_of_a_registry_share_a_name():
    with pytest.raises(
        ValueError, match="the method registry already has an entry called thompson"
    ):
        METHODS.add(METHODS["thompson"])


def _flat(shown: str) -> str:
    """What a page of help says, its frames and lines aside."""
    return " ".join(shown.replace("│", " ").split())
