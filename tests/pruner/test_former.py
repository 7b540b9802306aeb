"""What earlier versions called things is read under today's names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruner.run.folder import RunFolder, write_json
from pruner.run.former import NAMES, comparison_of_today, method_of_today, settings_of_today
from pruner.search.methods.agents import AGENTS
from pruner.search.methods.rewards import REWARDS

FORMER = {
    "model": "resnet56", "weights": "w", "data": "digits", "table": "t", "speedup": 2.0,
    "method": "lap", "agent": "thompson", "reward": "error_sensitivity", "actions": "widths",
    "sensitivity": True, "ranking": "l2", "rate": 0.1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("former", "today"),
    [
        ("lap", "thompson"),
        ("lap:epochs=20,rate=0.05", "thompson:epochs=20,learning_rate=0.05"),
        ("lap:agent=ddpg", "rl"),
        ("lap/ddpg/widths", "rl"),
        ("lap:agent=ddpg,reward=error", "rl:reward=error"),
        ("lap:agent=ddpg,sensitivity=false", "rl:sensitivity=false"),
        ("lap:agent=td3,depth=false", "rl:agent=td3,depth=false"),
        ("amc:agent=thompson", "thompson on MACs"),
        ("amc:agent=td3", "rl on MACs:agent=td3"),
        ("amc:agent=ddpg", "amc"),
        ("resnet20", "resnet20"),
        ("greedy:ranking=l2", "greedy:criterion=l2"),
    ],
)
def test_a_row_is_named_for_what_it_ran(former, today):
    assert method_of_today(former) == today


@pytest.mark.parametrize(
    ("names", "former", "today"),
    [(2, "lap", "rl"), (2, "lap:epochs=20", "rl:epochs=20"), (2, "amc", "amc"), (3, "lap", "lap")],
)
def test_an_agent_that_learnt_from_scores_alone_is_called_rl(names, former, today):
    assert method_of_today(former, names) == today


@given(st.sampled_from(AGENTS), st.sampled_from(sorted(REWARDS)), st.booleans())
def test_no_agent_of_earlier_versions_is_called_lap(agent, reward, sensitivity):
    label = f"lap:agent={agent},reward={reward},sensitivity={str(sensitivity).lower()}"
    assert method_of_today(label).partition(":")[0] == "rl"
    own = {"agent": agent, "reward": reward, "sensitivity": sensitivity}
    now = settings_of_today(FORMER | own)
    assert (now["method"], now["method_settings"]) == ("rl", own | {"actions": "widths"})


def test_a_run_of_an_earlier_version_opens_under_todays_names(tmp_path):
    write_json(tmp_path / "settings.json", FORMER)
    settings = RunFolder.open(tmp_path).settings
    assert (settings.method, settings.criterion, settings.learning_rate) == ("thompson", "l2", 0.1)
    assert settings_of_today(settings.model_dump()) == settings.model_dump()


def test_a_comparison_of_an_earlier_version_keeps_its_figures(tmp_path):
    before = {
        "settings": {"rate": 0.1},
        "rows": [{"method": "lap", "accuracy": 0.9}],
        "summary": [],
    }
    now = comparison_of_today(before)
    assert now["rows"] == [{"method": "thompson", "accuracy": 0.9}]
    assert now["settings"] == {"learning_rate": 0.1}
    assert now["names"] == NAMES
    assert comparison_of_today(now) == now
