"""Runs of the journeys are timed where a test looks at it: it takes as long as all the rest."""

import shutil

import pytest

from pruner import cli as pruner_cli
from pruner.run.measured import NotTimed
from tests.commands import command, prune_arguments
from tests.hasty import ANYWHERE


@pytest.fixture(autouse=True)
def _timed_where_it_is_looked_at(request, monkeypatch):
    if "timed" not in request.keywords:
        not_timed = NotTimed("this test does not look at it")
        monkeypatch.setattr("pruner.run.prune.measure_pair", lambda *_: not_timed)
    monkeypatch.setattr("pruner.run.measured.LATPROF", ANYWHERE)


def _made_once(workshop, folder, **changes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pruner.run.measured.LATPROF", ANYWHERE)
        arguments = prune_arguments(workshop, folder / "run", **changes)
        assert command(patch, pruner_cli.main, "prune", *arguments) == 0
    return folder / "run"


@pytest.fixture(scope="session")
def _searched_and_tuned(workshop, tmp_path_factory):
    return _made_once(workshop, tmp_path_factory.mktemp("tuned"))


@pytest.fixture(scope="session")
def _uniform_and_untuned(workshop, tmp_path_factory):
    changes = {"method": "uniform", "epochs": 0}
    return _made_once(workshop, tmp_path_factory.mktemp("uniform"), **changes)


@pytest.fixture
def tuned_run(_searched_and_tuned, tmp_path):
    """A finished, timed run of `prune_arguments`, for one test alone."""
    return shutil.copytree(_searched_and_tuned, tmp_path / "run")


@pytest.fixture
def uniform_run(_uniform_and_untuned, tmp_path):
    """A finished, timed run by the uniform method, not fine-tuned, for one test alone."""
    return shutil.copytree(_uniform_and_untuned, tmp_path / "run")
