"""Several methods side by side, through the command."""

import json
import re
import shutil

import pytest
from safetensors.torch import load_file, save_file

from lookup_tables.model.latency_model import LatencyModel
from lookup_tables.network import Network
from tests.commands import prune_arguments


@pytest.mark.timed
def test_methods_are_compared_beside_a_smaller_member_and_the_comparison_goes_on(
    workshop, tmp_path, pruner, capsys
):
    options = prune_arguments(workshop, tmp_path / "c", member="digits_resnet=90%")
    assert pruner("compare", *options, "--method", "knapsack", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert {row["method"] for row in found["rows"]} == {"knapsack", "digits_resnet"}
    for row in found["rows"]:
        assert 0 < row["measured_low"] <= row["measured"] <= row["measured_high"]
    assert (tmp_path / "c" / "pareto.svg").stat().st_size > 1000
    report = (tmp_path / "c" / "report.html").read_text()
    assert "http" not in report
    for link in re.findall("href='([^']+)'", report):
        assert (tmp_path / "c" / link).exists()
    written = lambda: {p: p.stat().st_mtime_ns for p in (tmp_path / "c").glob("*/*.onnx")}  # noqa: E731
    before = written()
    assert pruner("compare", *options, "--method", "random:episodes=2", "--json") == 0
    grown = json.loads(capsys.readouterr().out)["rows"]
    assert grown[: len(found["rows"])] == found["rows"]  # what is not named again stays
    assert [row["method"] for row in grown[len(found["rows"]) :]] == ["random:episodes=2"]
    assert {path: written()[path] for path in before} == before  # nothing was made twice
    assert len(written()) == len(before) + 2
    other = tmp_path / "other.safetensors"
    save_file({k: v * 2 for k, v in load_file(workshop / "dense.safetensors").items()}, other)
    for changes, says in (
        ({"epochs": 2}, "epochs differ"),
        ({"weights": other}, "has changed since the run began"),
        ({"member": f"digits_resnet={tmp_path}/none.th"}, "no such weights file"),
    ):
        changed = prune_arguments(workshop, tmp_path / "c", **changes)
        assert pruner("compare", *changed, "--method", "greedy") == 1
        assert says in capsys.readouterr().err
    assert not [*(tmp_path / "c").glob("greedy_*")], "refused before a run began"


def test_a_mistake_in_a_comparison_does_not_block_its_folder(workshop, tmp_path, pruner, capsys):
    options = prune_arguments(workshop, tmp_path / "c", method="uniform", epochs=0)
    wrong = prune_arguments(workshop, tmp_path / "c", method="uniform", epochs=0, model="resnet57")
    assert pruner("compare", *wrong) == 1
    assert "no model is called" in capsys.readouterr().err
    assert pruner("compare", *options) == 0


def test_a_member_that_does_not_read_the_images_is_refused_before_any_run(
    workshop, tmp_path, pruner, capsys
):
    options = prune_arguments(workshop, tmp_path / "c", method="uniform", member="resnet20=91%")
    assert pruner("compare", *options) == 1
    assert "cannot read the 1×8×8 images of digits" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


@pytest.mark.timed
def test_a_method_that_cannot_meet_a_budget_does_not_end_the_comparison(
    workshop, tmp_path, pruner, capsys
):
    options = prune_arguments(workshop, tmp_path / "c", method="random", epochs=0)
    assert pruner("compare", *options, "--speedup", 50, "--json") == 0
    printed = capsys.readouterr()
    rows = {row["asked"]: row for row in json.loads(printed.out)["rows"]}
    assert rows[1.2]["measured"] > 0
    assert "no architecture" in rows[50]["refused"]
    assert "random at 50×" in printed.err


def test_drop_layers_or_thin_them_is_answered_by_one_command(workshop, tmp_path, pruner, capsys):
    options = prune_arguments(workshop, tmp_path / "c", epochs=0, question="depth")
    assert pruner("compare", *options) == 0
    printed = capsys.readouterr().out
    assert re.search(r"1.2×: .*(dropping|thinning) layers keeps \d+\.\d\d points more", printed)
    assert "one seed each" in printed
    found = json.loads((tmp_path / "c" / "compare.json").read_text())["rows"]
    ways = {row["method"].partition(":")[0] for row in found}
    assert ways == {"layerprune", "filters", "knapsack"}
    (dropped,) = {row["macs_share"] for row in found if row["method"].startswith("layerprune")}
    assert dropped < 1
    report = (tmp_path / "c" / "report.html").read_text()
    assert "Drop layers or thin them? By batch norm" in report
    for way in ("layers dropped", "layers thinned", "both"):
        assert way in report
    for changes, says in (
        ({"question": "width"}, "--question 'width' is unknown; choose from depth"),
        (
            {"question": None, "layer_criterion": "gate_taylor"},
            "no effect without --question depth",
        ),
        ({"layer_criterion": "imprinting"}, "scores layers, not their filters"),
    ):
        wrong = prune_arguments(
            workshop, tmp_path / "d", **{"epochs": 0, "question": "depth"} | changes
        )
        assert pruner("compare", *wrong) == 1
        assert says in capsys.readouterr().err
        assert not (tmp_path / "d").exists()


def test_a_comparison_takes_milliseconds_and_members_of_ones_own(
    workshop, tmp_path, pruner, capsys
):
    mine, out = tmp_path / "mine.py", tmp_path / "c"
    mine.write_text(
        "from pruner.models.resnet import CifarResNet\n"
        "def little():\n    return CifarResNet(1, (8, 8), colours=1)\n"
    )
    network = Network.load(workshop / "small_resnet.json")
    dense_ms = 1e3 * LatencyModel.load(network, workshop / "table").dense_s
    budgets = {"speedup": None, "latency_ms": dense_ms / 1.3}
    options = prune_arguments(workshop, out, method="uniform", epochs=0, **budgets)
    assert pruner("compare", *options, "--member", f"{mine}:little=90%") == 0
    printed = capsys.readouterr().out
    assert f"{dense_ms / 1.3:g} ms" in printed
    assert "predicted" in printed
    run, member = json.loads((out / "compare.json").read_text())["rows"]
    assert run["asked"] == pytest.approx(1.3, rel=1e-3)
    assert (member["method"], member["measured"] > 1) == ("little", True)
    assert f"{dense_ms / 1.3:g} ms asked" in (out / "report.html").read_text()

    shutil.rmtree(out / run["folder"])
    options = prune_arguments(workshop, out, method="knapsack", epochs=0)
    assert pruner("compare", *options, "--json") == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["method"] for row in rows] == ["little", "knapsack"], "what is gone has no row"
    assert pruner("compare", *prune_arguments(workshop, out, speedup=None)) == 1
    assert "give at least one budget" in capsys.readouterr().err
