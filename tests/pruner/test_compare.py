"""What a comparison reads and how it sums up; the command itself runs in tests/journeys."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.compare import joined
from pruner import RunError
from pruner.cli.progress import Stages, progress
from pruner.run.compare import Member, _keep, differing, plan, summary, variant
from pruner.run.report.comparison import _own_settings
from pruner.run.report.pareto import draw, save
from pruner.run.settings import Settings


def row(method, seed, accuracy, measured, asked=2.0):
    return {
        "method": method, "asked": asked, "seed": seed, "accuracy": accuracy, "predicted": asked,
        "measured": measured, "measured_low": measured - 0.1, "measured_high": measured + 0.1,
    }  # fmt: skip


def test_only_agents_take_a_reward():
    base = Settings(model="resnet56", weights="w", data="cifar10", table="t", speedup=2.0)
    assert variant(base, "rl:agent=td3,reward=error").own("method").reward == "error"
    assert variant(base, "lap:reward=error").own("method").reward == "error"
    for name in ("abcp", "amc", "thompson"):
        with pytest.raises(RunError, match=f"--reward has no effect with --method {name}; it appl"):
            variant(base, f"{name}:reward=error")


def test_a_member_is_named_with_its_weights_or_its_published_accuracy():
    assert Member.parse("resnet20=a/r20.th") == Member("resnet20", Path("a/r20.th"))
    assert Member.parse("resnet32=92.63%") == Member("resnet32", published=pytest.approx(0.9263))
    assert Member.parse("resnet32=0.9263") == Member("resnet32", published=0.9263)


@pytest.mark.parametrize("text", ["resnet20", "resnet20=", "nothing=0.9", "resnet20=92.6"])
def test_a_member_that_cannot_be_is_refused_with_an_example(text):
    with pytest.raises(RunError, match=r"resnet32=92\.63%"):
        Member.parse(text)


def test_seeds_are_summed_up_and_the_most_accurate_comes_first():
    rows = [row("a", 0, 0.90, 2.0), row("a", 1, 0.92, 2.2), row("b", 0, 0.95, 2.1)]
    first, second = summary(rows)
    assert first["method"] == "b"
    assert second["accuracy"] == pytest.approx(0.91)
    assert (second["accuracy_low"], second["accuracy_high"]) == (0.90, 0.92)
    assert second["measured"] == pytest.approx(2.1)
    assert second["measured_low"] == pytest.approx(1.9)
    assert second["measured_high"] == pytest.approx(2.3)


def test_seeds_that_agree_are_summed_up_to_what_they_agree_on_and_drawn(tmp_path):
    """The mean of three times 335/360 is not 335/360 in floating point."""
    rows = [row("a", seed, 335 / 360, 2.0) for seed in range(3)]
    (found,) = summary(rows)
    assert found["accuracy_low"] == found["accuracy"] == found["accuracy_high"] == 335 / 360
    save([found], "toy", 0.95, tmp_path / "p.svg")


def test_a_method_has_no_seed_or_budget_of_its_own():
    base = Settings(model="resnet56", weights="w", data="cifar10", table="t", speedup=2.0)
    with pytest.raises(RunError, match="'seed' is not a setting of a method"):
        variant(base, "random:seed=3")


def test_a_comparison_begun_before_a_setting_existed_goes_on_with_its_usual_value(tmp_path):
    base = Settings(model="resnet56", weights="w", data="cifar10", table="t", speedup=2.0)
    shared = plan(base)
    former = {name: value for name, value in shared.items() if name != "weight_decay"}
    (tmp_path / "plan.json").write_text(json.dumps(former))
    (tmp_path / "compare.json").write_text("{}")
    _keep(tmp_path, shared)
    with pytest.raises(RunError, match=r"holds another comparison \(weight_decay differ\)"):
        _keep(tmp_path, shared | {"weight_decay": 1e-4})


def test_a_plan_that_no_run_was_made_by_does_not_bind(tmp_path):
    base = Settings(model="resnet56", weights="w", data="cifar10", table="t", speedup=2.0)
    _keep(tmp_path, plan(base) | {"depth": True})
    _keep(tmp_path, plan(base))
    assert json.loads((tmp_path / "plan.json").read_text()) == plan(base)


def test_a_users_file_is_known_by_its_content_and_not_by_where_it_lies():
    base = Settings(model="a/mine.py:net", weights="w", data="digits", table="t", speedup=2.0)
    assert differing(plan(base), plan(base.varied(model="b/mine.py:net"))) == []
    assert differing(plan(base), plan(base.varied(model="b/mine.py:other"))) == ["model"]


def test_the_command_of_a_run_names_an_agent_that_is_not_the_usual_one():
    base = Settings(model="resnet56", weights="w", data="cifar10", table="t", speedup=2.0)
    assert "--agent" not in variant(base, "amc").options()
    words = variant(base, "rl:agent=cma").options()
    assert words[words.index("--agent") + 1] == "cma"


def test_a_result_keeps_the_rows_of_earlier_runs_and_replaces_those_made_again():
    before = {"rows": [row("a", 0, 0.90, 2.0), row("b", 0, 0.91, 2.0)]}
    found = joined(before, {"rows": [row("a", 0, 0.95, 2.0), row("a", 1, 0.93, 2.0)]})
    assert [(r["method"], r["seed"], r["accuracy"]) for r in found["rows"]] == [
        ("a", 0, 0.95), ("b", 0, 0.91), ("a", 1, 0.93),
    ]  # fmt: skip
    assert [(entry["method"], entry["seeds"]) for entry in found["summary"]] == [("a", 2), ("b", 1)]


def test_progress_begins_anew_for_every_run_and_the_comparison_ends_last():
    bar = progress()
    stages = Stages(bar)
    for step, done, total in (
        ("compare", 0, 2), ("search", 0, 3), ("search", 3, 3), ("fine-tune", 0, 9),
        ("compare", 1, 2), ("search", 0, 4),
    ):  # fmt: skip
        stages(step, done, total, "")
    found = {task.description: (task.completed, task.total) for task in bar.tasks}
    assert found == {"compare": (1, 2), "search": (0, 4), "fine-tune": (9, 9)}
    assert [task.description for task in bar.tasks if task.finished] == ["fine-tune"]


def test_a_network_stands_at_the_dense_ones_latency_by_its_speedup_hollow_if_only_predicted():
    rows = [row("thompson", 0, 0.90, 2.0), row("far", 0, 0.88, 4.0, asked=4.0)]
    rows[1] |= {"measured": None, "measured_low": None, "measured_high": None}
    axis = draw(summary(rows), 0.93, dense_ms=6.0).axes[0]
    marks = {line.get_marker(): line for line in axis.lines if line.get_marker() in "osx"}
    assert marks["o"].get_xdata() == [3.0]  # 6 ms by 2×
    assert marks["o"].get_ydata() == [90.0]
    assert marks["s"].get_xdata() == [1.5]
    assert marks["s"].get_markerfacecolor() == "none"
    assert marks["x"].get_xdata() == [6.0]
    ends = [bars.get_segments()[0][:, 0] for bars in axis.containers[0].lines[2]]
    np.testing.assert_allclose(ends[0], [6 / 2.1, 6 / 1.9])
    assert axis.get_xlabel() == "latency, ms"


def test_the_picture_names_methods_and_members_and_is_the_same_file_each_time(tmp_path):
    rows = [row("thompson", 0, 0.90, 2.0), row("thompson", 0, 0.85, 3.0, asked=3.0)]
    rows.append(row("small", None, 0.8, 2.5, asked=None))
    axis = draw(summary(rows), 0.93, dense_ms=6.0).axes[0]
    labels = axis.get_legend_handles_labels()[1]
    assert {"thompson", "smaller members of the family"} <= {*labels}
    texts = []
    for name in ("p.svg", "q.svg"):
        save(summary(rows), "toy", 0.93, tmp_path / name)
        texts.append((tmp_path / name).read_text())
    assert texts[0].startswith("<?xml")
    assert texts[0] == texts[1]


def test_what_a_method_has_of_its_own_is_not_listed_as_shared():
    content = {"rows": [{"method": "rl:agent=td3,epochs=3"}, {"method": "random"}]}
    own = _own_settings(content)
    assert {"agent", "reward", "epochs"} <= own
    assert "batch" not in own
