"""What the README says of results is what the saved results hold."""

import re

from benchmarks.figures import README, renewed
from benchmarks.results import RESULTS


def test_the_readmes_tables_are_those_of_the_saved_results():
    text = README.read_text()
    assert renewed(text) == text, "run: make figures"


def test_every_result_that_the_readme_names_is_there():
    named = re.findall(r"`([\w…]+)\.json`", README.read_text())
    assert len(named) > 8
    own_files = {"result", "compare", "manifest", "architecture", "a", "mine", "settings"}
    for name in set(named) - own_files:
        assert any(RESULTS.glob(name.replace("…", "*") + ".json")), name
