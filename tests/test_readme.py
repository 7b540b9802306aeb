"""What the documents say of results is what the saved results hold."""

import re

import pytest

from benchmarks.figures import PAGES, renewed
from benchmarks.results import RESULTS

# Files of a run, of a table, of a user: no results.
OWN = {"result", "compare", "manifest", "architecture", "a", "mine", "settings"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_tables_of_a_page_are_those_of_the_saved_results(page):
    text = page.read_text()
    assert renewed(text) == text, "run: make figures"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_result_that_a_page_names_is_there(page):
    named = set(re.findall(r"`([\w…/.]+)\.json`", page.read_text())) - OWN
    folders = re.findall(r"`([a-z_]+)/`", page.read_text())
    assert named
    for name in named:
        assert any(RESULTS.glob(name.replace("…", "*") + ".json")), name
    for name in folders:
        assert (RESULTS / name).is_dir() or (RESULTS.parents[1] / name).is_dir(), name
