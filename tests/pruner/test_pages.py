"""Pages and their pictures; whole reports are written in tests/journeys."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pruner.run.report import page, pictures
from pruner.run.report.comparison import write_comparison
from pruner.run.report.pareto import pareto_front
from tests.pruner.test_compare import row

SUMMARY = [
    {
        "method": "thompson", "asked": 2.0, "seeds": 1, "accuracy": 0.9, "accuracy_low": 0.89,
        "accuracy_high": 0.91, "predicted": 2.0,
        "measured": 2.0, "measured_low": 1.9, "measured_high": 2.1,
    }
]  # fmt: skip


def test_a_picture_takes_the_pages_text_colour_and_names_nothing_outside():
    svg = pictures.search_course([0.1, 0.4, 0.3], [False, True, True])
    assert svg.startswith('<svg viewBox="0 0 ')
    assert 'aria-label="accuracy of the 3 networks that the search scored"' in svg
    assert "currentColor" in svg
    assert pictures.INK not in svg
    assert "http" not in svg


def test_the_same_numbers_give_the_same_picture():
    assert pictures.loss_course([2.0, 1.0]) == pictures.loss_course([2.0, 1.0])


def test_every_reference_inside_a_picture_has_its_target():
    import re

    svg = pictures.search_cloud([2e-3, 1e-3], [0.9, 0.5], 0, 2e-3)
    targets = set(re.findall(r' id="([^"]+)"', svg))
    assert set(re.findall(r'href="#([^"]+)"', svg)) <= targets
    assert set(re.findall(r"url\(#([^)]+)\)", svg)) <= targets


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=20))
def test_what_is_not_on_the_front_is_surpassed_by_something_no_dearer(points):
    cost, value = np.array(points).T
    front = pareto_front(cost, value)
    assert sorted(cost[front]) == list(cost[front])
    for c, v in points:
        assert any(cost[i] <= c and value[i] >= v for i in front)
    for i in front:
        assert not any(c <= cost[i] and v > value[i] for c, v in points)


def test_words_from_outside_are_escaped(tmp_path):
    page.write_page(tmp_path / "p.html", "a <b>", [page.table(["<i>"], [["<script>"]])])
    text = (tmp_path / "p.html").read_text()
    assert "<script>" not in text
    assert "<i>" not in text
    assert "<title>a &lt;b&gt;</title>" in text


def test_a_comparison_shows_runs_members_and_budgets_that_could_not_be_met(tmp_path):
    run = row("thompson:learning_rate=0.1", 0, 0.9, 2.0) | {
        "folder": "thompson_learning_rate_0.1_2x_0", "predicted": 2.05, "before_fine_tuning": 0.5,
    }  # fmt: skip
    member = row("resnet20", None, 0.91, 2.9, asked=None) | {"published": True}
    refused = {"method": "random", "asked": 50.0, "seed": 0, "refused": "no architecture"}
    content = {"settings": {"model": "m"}, "rows": [run, member, refused], "summary": SUMMARY}
    write_comparison(tmp_path / "r.html", "m on d", content, 0.93)
    text = (tmp_path / "r.html").read_text()
    assert "<a href='thompson_learning_rate_0.1_2x_0/report.html'>" in text
    assert ">thompson:learning_rate=0.1, 2× asked, seed 0</a>" in text
    assert "91.00% (published)" in text
    assert "no architecture" in text
    assert "3.00" in text  # points lost
