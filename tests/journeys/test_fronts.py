"""One search for every budget, and networks picked of it, through the commands."""

import json
import shutil

import pytest

from pruner import cli as pruner_cli
from tests.commands import command, prune_arguments

SMALL = ["--population", "6", "--generations", "3", "--least-width", "0.25"]
ANY = [f"--least-width-{kind}" for kind in ("first", "strided", "shortcut")]
LIMITS = [word for option in ANY for word in (option, "0.25")]


def search_arguments(workshop, out, **changes):
    """Options of `pruner search`: those of `prune` that do not finish a network."""
    return prune_arguments(workshop, out, **({"epochs": None} | changes))


@pytest.fixture(scope="module")
def _searched_once(workshop, tmp_path_factory):
    out = tmp_path_factory.mktemp("front") / "s"
    options = search_arguments(workshop, out, method="jcw", episodes=None, speedup=1.5)
    with pytest.MonkeyPatch.context() as patch:
        assert command(patch, pruner_cli.main, "search", *options, *SMALL, *LIMITS) == 0
    return out


@pytest.fixture
def searched(_searched_once, tmp_path):
    """A finished search by JCW, for one test alone."""
    return shutil.copytree(_searched_once, tmp_path / "s")


@pytest.mark.timed
def test_a_front_is_searched_listed_drawn_and_two_networks_of_it_are_finished(
    searched, tmp_path, pruner, capsys
):
    front = json.loads((searched / "front.json").read_text())
    latencies = [point["latency_ms"] for point in front["points"]]
    accuracies = [point["accuracy"] for point in front["points"]]
    assert latencies == sorted(latencies)
    assert accuracies == sorted(accuracies)
    assert (searched / "front.svg").stat().st_size > 1000
    assert not (searched / "architecture.json").exists(), "nothing was decided yet"
    capsys.readouterr()
    picture = tmp_path / "fronts.png"
    assert pruner("front", searched, "--picture", picture) == 0
    said = capsys.readouterr().out
    assert f"{len(front['points'])} networks from" in said
    assert "hypervolume" in said
    assert picture.stat().st_size > 1000

    scored = (searched / "search.jsonl").read_text()
    budgets = ["--speedup", "1.3", "--latency-ms", str(front["dense_ms"] / 1.1)]
    pick = ["pick", "--front", searched, *budgets, "--epochs", "1"]
    assert pruner(*pick, "--json") == 0
    results = json.loads(capsys.readouterr().out)
    for result, asked in zip(results, (1.3, 1.1), strict=True):
        assert result["predicted"]["speedup"] >= asked * (1 - 1e-6)
    assert {folder.name for folder in (searched / "picks").glob("*/")} >= {"1.3x"}
    for result in results:
        assert result["accuracy"]["exported"] == result["accuracy"]["fine_tuned"]
        assert result["measured"]["speedup"] > 0
    assert (searched / "search.jsonl").read_text() == scored, "nothing was searched anew"
    files = {p: p.stat().st_mtime_ns for p in (searched / "picks").glob("*/*.safetensors")}
    assert pruner(*pick) == 0  # again: it is there
    assert {p: p.stat().st_mtime_ns for p in files} == files
    assert "a run's folder for every network" in capsys.readouterr().out


def test_a_budget_beyond_jcw_s_least_shares_leaves_nothing_behind(
    workshop, tmp_path, pruner, capsys
):
    options = search_arguments(workshop, tmp_path / "x", method="jcw", episodes=None, speedup=1.5)
    assert pruner("-q", "search", *options, "--least-width", "1") == 1
    assert "Lower --least-width" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_search_that_was_killed_goes_on_and_ends_with_the_same_front(
    searched, workshop, tmp_path, pruner
):
    whole = json.loads((searched / "front.json").read_text())
    (searched / "front.json").unlink()
    log = searched / "search.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:7]) + lines[7][:20])
    options = search_arguments(workshop, searched, method="jcw", episodes=None, speedup=1.5)
    assert pruner("search", *options, *SMALL, *LIMITS) == 0
    assert json.loads((searched / "front.json").read_text()) == whole


def test_fronts_of_several_methods_stand_side_by_side(searched, workshop, tmp_path, pruner, capsys):
    both = tmp_path / "c"
    options = prune_arguments(workshop, both, epochs=0, episodes=3, method="random")
    assert pruner("compare", *options, "--speedup", "1.3") == 0
    capsys.readouterr()
    assert pruner("front", searched, both, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    (jcw,) = (name for name in found if name.startswith("jcw"))
    assert {*found} == {jcw, "random"}
    assert all(0 < front["hypervolume"] < 1 for front in found.values())
    fastest = found["random"]["points"][0]["speedup"]
    assert fastest >= 1.29, "two budgets, one front"


def test_our_search_for_all_budgets_is_the_usual_one(workshop, tmp_path, pruner, capsys):
    options = search_arguments(workshop, tmp_path / "s", episodes=8, speedup=1.4)
    assert pruner("search", *options, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["method"] == "thompson_front"
    assert found["points"][-1]["accuracy"] > 0.5


def test_runs_of_one_method_that_scored_otherwise_are_not_one_front(
    uniform_run, workshop, tmp_path, pruner, capsys
):
    options = prune_arguments(workshop, tmp_path / "o", method="uniform", epochs=0, score_images=50)
    assert pruner("prune", *options) == 0
    capsys.readouterr()
    assert pruner("front", uniform_run, tmp_path / "o") == 1
    assert "score_images differ" in capsys.readouterr().err
    log = tmp_path / "o" / "search.jsonl"
    log.write_text(log.read_text()[:20])
    assert pruner("front", tmp_path / "o") == 1
    assert "has scored nothing yet" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["pick", "--front", "{s}"], "give at least one budget"),
        (["pick", "--front", "{s}", "--speedup", "50"], "nothing of this search meets"),
        (["pick", "--front", "{w}", "--speedup", "2"], "is not a run folder"),
        (["front", "{w}"], "holds no search"),
        (["front", "{s}", "--picture", "front.txt"], ".svg or .png"),
        (["pick", "--front", "{s}", "--speedup", "1.2", "--table", "{w}"], "device.json"),
    ],
)
def test_a_wrong_question_to_a_front_is_one_line(
    arguments, says, searched, workshop, pruner, capsys
):
    given = [word.format(s=searched, w=workshop) for word in arguments]
    assert pruner("-q", *given) == 1
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1
    assert not (searched / "picks").exists()
