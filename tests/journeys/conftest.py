"""Runs of the journeys are timed where a test looks at it: it takes as long as all the rest."""

import pytest

from pruner.run.measured import NotTimed


@pytest.fixture(autouse=True)
def _timed_where_it_is_looked_at(request, monkeypatch):
    if "timed" not in request.keywords:
        not_timed = NotTimed("this test does not look at it")
        monkeypatch.setattr("pruner.run.prune.measure_pair", lambda *_: not_timed)
