"""Both journeys through the real commands, on digits: profile, prune, interrupt, continue."""

import html
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file

from latprof.show import print_validations
from lookup_tables.device import Device
from lookup_tables.estimate import LatencyModel
from lookup_tables.files import only_writer
from lookup_tables.manifest import MANIFEST, load_manifest
from lookup_tables.network import Architecture, Network
from lookup_tables.table import DATA, LatencyTable, Validation
from pruner import cli as pruner_cli
from pruner import origin
from pruner import prune as pruner_prune
from pruner.accuracy import accuracy
from pruner.criteria.dynamic import Phase
from pruner.data import load_data
from pruner.models.resnet import CifarResNet
from pruner.prune import load_run
from pruner.run_folder import RunFolder, Settings
from pruner.weights import load_weights, save_weights
from tests.commands import FACTORY, prune_arguments
from tests.toys import food101_folder, imagenet_folder, small_resnet, synthetic_table

CHAIN = """
from torch import nn

def chain():
    layers = [nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
"""


IMAGES = """
from pruner.data import load_data

def images():
    return load_data("digits")

def others():
    return load_data("digits", seed=1)
"""


def _traced(pruner, file, out):
    assert pruner("trace", "--model", f"{file}:chain", "--input", "1x8x8", "--out", out) == 0
    return out


def test_prune_leaves_a_complete_run(workshop, tmp_path, pruner, capsys):
    assert pruner("prune", *prune_arguments(workshop, tmp_path / "run"), "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert printed == result
    assert result["asked"]["speedup"] == pytest.approx(1.2)
    assert result["predicted"]["speedup"] >= 1.2 * (1 - 1e-6)
    assert result["measured"]["speedup_low"] <= result["measured"]["speedup_high"]
    assert result["accuracy"]["fine_tuned"] > 0.5
    assert result["accuracy"]["exported"] == pytest.approx(
        result["accuracy"]["fine_tuned"], abs=0.01
    )
    assert result["device"]["threads"] == 1
    for name in ("architecture.json", "model.safetensors", "model.onnx", "report.html"):
        assert (tmp_path / "run" / name).stat().st_size > 0
    (epoch,) = result["training"]
    assert epoch["steps"] == len(load_data("digits").all_training) // 128


def test_the_report_stands_alone_and_tells_the_whole_story(workshop, tmp_path, pruner, capsys):
    assert pruner("prune", *prune_arguments(workshop, tmp_path / "run")) == 0
    report = (tmp_path / "run" / "report.html").read_text()
    assert "http" not in report  # nothing is fetched
    for told in (
        "Where the time went", "layer1.0.conv1", "The widths chosen", "What the search tried",
        "Fine-tuning, epoch by epoch", "How to reproduce it",
    ):  # fmt: skip
        assert told in report
    assert report.count("<svg") == 5

    command = html.unescape(re.search("<pre><code>(.*?)</code></pre>", report, re.DOTALL)[1])
    program, *words = shlex.split(command.replace(" RUN", f" {tmp_path / 'run'}"))
    assert program == "pruner"
    capsys.readouterr()
    assert pruner(*words, "--json") == 0  # the same settings: the finished run is found
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert json.loads(capsys.readouterr().out) == result


def test_a_table_pushed_from_one_home_is_pruned_against_in_another(workshop, tmp_path):
    def at(home, *words):
        (tmp_path / home).mkdir(exist_ok=True)
        python_path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
        environment = os.environ | {"HOME": str(tmp_path / home), "PYTHONPATH": python_path}
        command = [sys.executable, "-m", *map(str, words)]
        return subprocess.run(
            command,
            cwd=tmp_path / home,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    place = tmp_path / "place"
    at("profiler", "latprof", "push", workshop / "table", place)
    (listed,) = json.loads(at("pruner", "latprof", "list", place, "--json"))
    assert listed["networks"] == ["small_resnet"]
    at("pruner", "latprof", "pull", place, "--out", "table")
    options = prune_arguments(workshop, "run", table="table", epochs=0)
    result = json.loads(at("pruner", "pruner", "prune", *options, "--json"))
    assert result["predicted"]["speedup"] >= 1.2 * (1 - 1e-6)


def test_a_place_where_nothing_is_says_so(tmp_path, latprof, capsys):
    assert latprof("list", tmp_path / "none") == 0
    assert "holds no table" in capsys.readouterr().out
    assert latprof("pull", tmp_path / "none", "--out", tmp_path / "table") == 1
    assert "holds no table. Check the address" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


def test_a_finished_table_is_sealed_verified_and_gets_a_card(workshop, tmp_path, latprof, capsys):
    shutil.copytree(workshop / "table", tmp_path / "table")
    assert latprof("verify", tmp_path / "table") == 0
    assert "as sealed" in capsys.readouterr().out
    assert latprof("card", tmp_path / "table") == 0
    assert "small_resnet" in (tmp_path / "table" / "README.md").read_text()
    picture = tmp_path / "picture.png"
    named = ("--table", tmp_path / "table", "--network", "small_resnet")
    assert latprof("plot", *named, "--out", picture) == 0
    rows = tmp_path / "table" / "small_resnet.jsonl"
    rows.write_text(rows.read_text().replace('"pairs":', '"pairs":1', 1))
    capsys.readouterr()
    assert latprof("verify", tmp_path / "table") == 1
    assert "small_resnet.jsonl, line 2: differs from what was sealed" in capsys.readouterr().err


def test_a_table_that_is_being_written_is_not_profiled_by_a_second_process(
    workshop, tmp_path, latprof, capsys
):
    shutil.copytree(workshop / "table", tmp_path / "table")
    network = workshop / "small_resnet.json"
    with only_writer(tmp_path / "table"):
        options = ["--network", network, "--levels", "3", "--samples", "12"]
        assert latprof("profile", *options, "--out", tmp_path / "table") == 1
    assert "another process is writing into it" in capsys.readouterr().err


def test_what_the_system_refuses_is_one_line(workshop, tmp_path, latprof, pruner, capsys):
    file = tmp_path / "file"
    file.write_text("")
    network = workshop / "small_resnet.json"
    Network.load(network).dense.save(tmp_path / "a.json")
    dense = ["--network", network, "--architecture", tmp_path / "a.json"]
    assert latprof("export", *dense, "--out", file / "x.onnx") == 1
    assert "Not a directory" in capsys.readouterr().err
    assert pruner("trace", "--model", FACTORY, "--input", "1x8x8", "--out", file / "x.json") == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_quiet_commands_leave_standard_error_empty(workshop, tmp_path, pruner, latprof, capsys):
    options = prune_arguments(workshop, tmp_path / "run", method="uniform", epochs=0)
    assert pruner("--quiet", "prune", *options) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "measured" in printed.out
    assert latprof("-q", "networks") == 0
    assert "resnet56" in capsys.readouterr().out


def test_a_table_of_one_thread_becomes_one_of_two_threads(workshop, tmp_path, latprof, capsys):
    options = ["--from", workshop / "table", "--network", "small_resnet"]
    options += ["--samples", 12, "--unseen", 4, "--out", tmp_path / "t"]
    assert latprof("transfer", *options) == 1
    assert "on this very device" in capsys.readouterr().err
    # In a process of its own: a thread pool is one for the rest of a process.
    command = [sys.executable, "-m", "latprof", "transfer", *options, "--threads", 2, "--json"]
    made = subprocess.run([*map(str, command)], capture_output=True, text=True, check=True)
    menu, any_ = json.loads(made.stdout)
    assert (menu["widths"], any_["widths"]) == ("menu", "any")
    made = LatencyTable.open(tmp_path / "t")
    network = Network.load(workshop / "small_resnet.json")
    assert made.device.threads == 2
    assert len({run.run for run in made.runs(network, "design")}) == 12
    assert made.prior(network).device.threads == 1
    assert latprof("verify", tmp_path / "t") == 0


def test_two_tables_are_merged_by_a_command(workshop, tmp_path, latprof, capsys):
    assert latprof("merge", workshop / "table", workshop / "table", "--out", tmp_path / "m") == 0
    assert LatencyTable.open(tmp_path / "m").networks() == ["small_resnet"]


def test_a_budget_close_to_the_dense_network_still_gets_one_that_is_surely_faster(
    workshop, tmp_path, pruner, capsys
):
    close = prune_arguments(workshop, tmp_path / "run", speedup=1.001, method="random", epochs=0)
    assert pruner("prune", *close, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["predicted"]["high_ms"] < result["asked"]["dense_ms"]


def test_a_result_says_which_layers_bought_the_time(workshop, tmp_path, pruner, capsys):
    options = prune_arguments(workshop, tmp_path / "run", method="uniform", epochs=0)
    assert pruner("prune", *options) == 0
    assert "time bought by: " in capsys.readouterr().out
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    saved = [row["dense_ms"] - row["pruned_ms"] for row in result["bought"]]
    assert saved == sorted(saved, reverse=True)
    difference = result["predicted"]["dense_ms"] - result["predicted"]["latency_ms"]
    assert sum(saved) == pytest.approx(difference, rel=0.5)  # dense: measured, layers: predicted


def test_methods_are_compared_beside_a_smaller_member_and_the_comparison_goes_on(
    workshop, tmp_path, pruner, capsys
):
    options = prune_arguments(workshop, tmp_path / "c", member="digits_resnet=90%")
    methods = ["--method", "uniform", "--method", "knapsack"]
    assert pruner("compare", *options, *methods, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert {row["method"] for row in found["rows"]} == {"uniform", "knapsack", "digits_resnet"}
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
        ({"epochs": 2}, "other epochs"),
        ({"weights": other}, "begun with another content"),
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


def test_a_run_outlives_its_tables_judgement_but_not_another_way_to_read_it(
    workshop, tmp_path, pruner, capsys, monkeypatch
):
    table = tmp_path / "table"
    shutil.copytree(workshop / "table", table)
    options = prune_arguments(workshop, tmp_path / "run", table=table, method="uniform", epochs=0)
    assert pruner("prune", *options) == 0
    opened = LatencyTable.open(table)
    opened.append("small_resnet", [opened.validation("small_resnet")])
    opened.seal("small_resnet")
    assert pruner("prune", *options) == 0
    monkeypatch.setattr("pruner.origin.PREDICTOR", 0)
    capsys.readouterr()
    assert pruner("prune", *options) == 1
    assert "its rows or how they are read have changed" in capsys.readouterr().err


def test_a_search_is_not_continued_by_a_version_that_scores_otherwise(
    workshop, tmp_path, pruner, capsys, monkeypatch
):
    out = tmp_path / "run"
    options = prune_arguments(workshop, out, method="uniform", epochs=0)
    assert pruner("prune", *options) == 0
    monkeypatch.setattr("pruner.prune.SCORE", 0)
    capsys.readouterr()
    assert pruner("prune", *options) == 0, "what was found stays found"
    (out / "result.json").unlink()
    (out / "architecture.json").unlink()
    assert pruner("prune", *options) == 1
    assert "scored candidates otherwise" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("data", "model", "make"),
    [("imagenet", "mobilenet_v2", imagenet_folder), ("food101", "resnet18", food101_folder)],
)
def test_a_model_for_images_in_folders_is_trained_and_pruned(
    tmp_path, pruner, capsys, data, model, make
):
    make(tmp_path / "images")
    weights, net, out = (tmp_path / name for name in ("dense.safetensors", "net.json", "run"))
    source = ["--model", model, "--data", data, "--data-dir", tmp_path / "images", "--batch", 4]
    assert pruner("train", *source, "--epochs", 1, "--out", weights) == 0
    assert pruner("trace", "--model", model, "--classes", 2, "--out", net) == 0
    synthetic_table(tmp_path / "table", Network.load(net), levels=2)
    capsys.readouterr()
    options = ["--weights", weights, "--table", tmp_path / "table", "--speedup", 1.3, "--epochs", 1]
    options += ["--method", "uniform", "--out", out, "--json"]
    assert pruner("prune", *source, *options) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["predicted"]["speedup"] >= 1.3 * (1 - 1e-6)
    assert result["measured"] is None  # the table is of a device that does not exist
    assert result["accuracy"]["test_images"] == 4
    assert load_run(out)(torch.zeros(1, 3, 224, 224)).shape == (1, 2)


def test_with_depth_blocks_are_tried_and_the_run_is_loaded_again(
    workshop, tmp_path, pruner, capsys
):
    options = prune_arguments(workshop, tmp_path / "run", method="random", episodes=20, epochs=0)
    net = Network.load(workshop / "small_resnet.json")
    assert pruner("prune", *options, "--depth", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    log = (tmp_path / "run" / "search.jsonl").read_text()
    assert net.blocks[0].name in log  # some candidates have lost it
    model = load_run(tmp_path / "run")
    x, _ = load_data("digits").test.batch(torch.arange(4))
    assert model(x).shape == (4, 10)
    accuracy = result["accuracy"]
    assert accuracy["exported"] == pytest.approx(accuracy["fine_tuned"], abs=0.01)


@pytest.mark.parametrize("method", ["thompson", "lap", "amc", "greedy", "knapsack", "random"])
def test_without_widths_only_blocks_go(workshop, tmp_path, pruner, capsys, method):
    net = Network.load(workshop / "small_resnet.json")
    synthetic_table(tmp_path / "table", net)  # a hasty one measured here may promise nothing
    changes = {"table": tmp_path / "table", "method": method, "epochs": 0}
    options = prune_arguments(workshop, tmp_path / "run", **changes)
    assert pruner("prune", *options, "--depth", "--no-widths", "--json") == 0
    made = Architecture.load(tmp_path / "run" / "architecture.json")
    assert made.removed
    assert net.widths(made) == net.widths(net.dense)
    result = json.loads(capsys.readouterr().out)
    model, test = load_run(tmp_path / "run"), load_data("digits").test
    gone = [name for block in net.blocks if block.name in made.removed for name in block.layers]
    assert not {*gone} & {name for name, _ in model.named_modules()}
    assert accuracy(model, test) == result["accuracy"]["fine_tuned"]


def test_a_network_found_before_is_trained_otherwise_without_another_search(
    workshop, tmp_path, pruner, capsys
):
    found = tmp_path / "run" / "architecture.json"
    assert pruner("prune", *prune_arguments(workshop, tmp_path / "run", method="knapsack")) == 0
    given = {"episodes": 300, "speedup": None, "epochs": 2, "architecture": found}
    options = prune_arguments(workshop, tmp_path / "longer", **given)
    capsys.readouterr()
    assert pruner("prune", *options, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert Architecture.load(tmp_path / "longer" / "architecture.json") == Architecture.load(found)
    assert len(result["training"]) == 2
    assert result["asked"] == {name: result["predicted"][name] for name in result["asked"]}
    assert not (tmp_path / "longer" / "search.jsonl").exists()

    moved = found.rename(tmp_path / "moved.json")
    options[options.index(found)] = moved
    assert pruner("prune", *options) == 0  # the same content, wherever it lies
    Architecture(widths={"conv1": 8}).save(moved)
    assert pruner("prune", *options) == 1
    assert "begun with another content of" in capsys.readouterr().err
    Architecture().save(moved)
    options[options.index(tmp_path / "longer")] = tmp_path / "dense"
    assert pruner("prune", *options) == 1
    assert "moved.json: predicted" in capsys.readouterr().err
    at = options.index("--architecture")
    options[options.index(tmp_path / "dense")] = tmp_path / "longer"
    assert pruner("prune", *options[:at], *options[at + 2 :], "--speedup", 1.2) == 1
    assert "begun with other settings: " in capsys.readouterr().err
    Architecture(widths={"layer2.0.conv1": 1}).save(moved)
    options[options.index(tmp_path / "longer")] = tmp_path / "thin"
    assert pruner("prune", *options) == 1
    assert "layer2.0.conv1 is 1 wide, the table knows it from" in capsys.readouterr().err
    assert pruner("prune", *options, "--method", "random") == 1
    assert "--method has no effect with --architecture" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["thompson", "uniform", "magnitude"])
def test_layers_keep_their_width_where_it_is_asked_for(workshop, tmp_path, pruner, capsys, method):
    options = prune_arguments(workshop, tmp_path / "run", method=method, epochs=0)
    assert pruner("prune", *options, "--keep-width", "layer2.0.conv1") == 0
    net = Network.load(workshop / "small_resnet.json")
    widths = net.widths(Architecture.load(tmp_path / "run" / "architecture.json"))
    assert widths["layer2.0.conv1"] == 96
    assert min(width / net.group[name].width for name, width in widths.items()) < 1


def test_a_budget_in_milliseconds_is_met(workshop, tmp_path, pruner):
    net = Network.load(workshop / "small_resnet.json")
    dense_ms = LatencyModel.load(net, workshop / "table").dense_s * 1e3
    changes = {"speedup": None, "latency_ms": dense_ms / 1.3, "method": "random", "epochs": 0}
    assert pruner("prune", *prune_arguments(workshop, tmp_path / "run", **changes)) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["asked"]["latency_ms"] == pytest.approx(dense_ms / 1.3)
    assert result["predicted"]["latency_ms"] <= dense_ms / 1.3 * (1 + 1e-6)


def test_a_runs_numbers_are_those_of_its_networks(workshop, tmp_path, pruner, capsys):
    options = prune_arguments(workshop, tmp_path / "run", method="random")
    assert pruner("prune", *options, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    net = Network.load(workshop / "small_resnet.json")
    architecture = Architecture.load(tmp_path / "run" / "architecture.json")
    assert result["macs"] == {
        "dense": net.macs_of(net.dense), "pruned": net.macs_of(architecture)
    }  # fmt: skip
    dense, pruned = small_resnet(), load_run(tmp_path / "run")
    assert result["parameters"] == {
        "dense": sum(p.numel() for p in dense.parameters()),
        "pruned": sum(p.numel() for p in pruned.parameters()),
    }
    load_weights(dense, workshop / "dense.safetensors")
    cut = load_run(tmp_path / "run")
    load_weights(cut, tmp_path / "run" / "cut.safetensors")
    test = load_data("digits").test
    for name, model in (("dense", dense), ("pruned", cut), ("fine_tuned", pruned)):
        assert result["accuracy"][name] == pytest.approx(accuracy(model, test)), name
    assert result["predicted"]["low_ms"] < result["predicted"]["latency_ms"]
    assert result["predicted"]["latency_ms"] < result["predicted"]["high_ms"]
    assert result["table_error"].keys() == {"menu", "any"}


SEALED_TEST = """
from dataclasses import replace
from pruner.data import load_data

class Closed:
    def __init__(self, images):
        self.images, self.opened = images, False

    def __len__(self):
        return len(self.images)

    def batch(self, indices, seed=None):
        assert self.opened, "the test set was read before the end"
        return self.images.batch(indices, seed)

DATA = load_data("digits")
TEST = Closed(DATA.test)

def images():
    return replace(DATA, test=TEST)
"""


@pytest.mark.parametrize(
    "changes",
    [{"criterion": "taylor"}, {"criterion": "dynamic"}, {"method": "greedy"}, {"patience": 1}],
    ids=str,
)
def test_the_test_set_is_read_at_the_end_only(workshop, tmp_path, monkeypatch, changes):
    monkeypatch.setattr(pruner_prune, "Phase", partial(Phase, steps=4, interval=2, batch=32))
    mine = tmp_path / "mine.py"
    mine.write_text(SEALED_TEST)
    data = load_data(f"{mine}:images")
    settings = Settings(
        model=FACTORY, weights=str(workshop / "dense.safetensors"), data=f"{mine}:images",
        table=str(workshop / "table"), speedup=1.2, episodes=3, epochs=1, **changes,
    )  # fmt: skip

    def report(step, done, total, text):
        data.test.opened = step == "report"

    assert pruner_prune.prune(settings, tmp_path / "run", report)["accuracy"]["fine_tuned"] > 0.3


def test_a_run_is_exported_for_several_images_at_once(workshop, tmp_path, pruner, capsys):
    options = prune_arguments(workshop, tmp_path / "run", method="uniform", epochs=0)
    assert pruner("prune", *options) == 0
    out = tmp_path / "four.onnx"
    assert pruner("export", "--run", tmp_path / "run", "--out", out, "--batch", 4) == 0
    shape = onnx.load(out).graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_value for d in shape] == [4, 1, 8, 8]
    assert pruner("export", "--run", tmp_path / "run", "--out", tmp_path / "four.pb") == 1
    assert "end it in .onnx" in capsys.readouterr().err


def test_a_table_whose_profile_has_not_finished_says_so(workshop, tmp_path, pruner, capsys):
    table = tmp_path / "table"
    table.mkdir()
    shutil.copy(workshop / "table" / "device.json", table)
    rows = (workshop / "table" / "small_resnet.jsonl").read_text().splitlines(keepends=True)
    kept = [row for row in rows if json.loads(row)["row"] != "validation"]
    (table / "small_resnet.jsonl").write_text("".join(kept))
    options = prune_arguments(workshop, tmp_path / "run", table=table, method="uniform", epochs=0)
    assert pruner("prune", *options) == 0
    assert "its profile has not finished" in capsys.readouterr().out


SEVEN = """
import torch
from torch.utils.data import TensorDataset
from pruner.data import load_data
from tests.toys import small_resnet as whole

def small_resnet():
    model = whole()
    model.linear = torch.nn.Linear(96, 7)
    return model

def images():
    data = load_data("digits")
    parts = [part.batch(torch.arange(len(part))) for part in (data.train, data.test)]
    return tuple(TensorDataset(x[y < 7], y[y < 7]) for x, y in parts)
"""


def test_a_table_serves_fewer_classes_than_it_was_measured_for(
    workshop, tmp_path, pruner, latprof, capsys
):
    mine, weights = tmp_path / "mine.py", tmp_path / "seven.safetensors"
    mine.write_text(SEVEN)
    seven = {"model": f"{mine}:small_resnet", "data": f"{mine}:images"}
    begin = [f"--weights={workshop / 'dense.safetensors'}", "--epochs=1", f"--out={weights}"]
    assert pruner("train", *(f"--{k}={v}" for k, v in seven.items()), *begin) == 0
    options = {"weights": weights, "method": "random", "epochs": 0, **seven}
    capsys.readouterr()
    assert pruner("prune", *prune_arguments(workshop, tmp_path / "run", **options)) == 0
    assert "small_resnet, for more classes: this one takes no longer" in capsys.readouterr().out
    assert load_run(tmp_path / "run")(torch.zeros(1, 1, 8, 8)).shape == (1, 7)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["predicted"]["speedup"] >= 1.2 * (1 - 1e-6)
    assert result["priced_by"] == "small_resnet"
    assert pruner("prune", *prune_arguments(workshop, tmp_path / "run", **options)) == 0

    net = tmp_path / "seven.json"
    traced = ("--model", seven["model"], "--input", "1x8x8", "--out", net)
    assert pruner("trace", *traced) == 0
    found = tmp_path / "run" / "architecture.json"
    asked = ("--table", workshop / "table", "--network", net, "--json")
    capsys.readouterr()
    assert latprof("predict", *asked, "--architecture", found) == 0
    answer, said = capsys.readouterr()
    assert json.loads(answer)["speedup"] == pytest.approx(result["predicted"]["speedup"])
    assert "the same network for more classes" in said
    assert latprof("explain", *asked, "--architecture", found) == 0
    assert latprof("steps", *asked) == 0


def test_a_run_that_an_earlier_version_finished_is_shown(workshop, tmp_path, pruner, capsys):
    options = prune_arguments(workshop, tmp_path / "run", method="uniform", epochs=0)
    assert pruner("prune", *options) == 0
    for name, since in (("result.json", "table_error"), ("settings.json", "architecture")):
        content = json.loads((tmp_path / "run" / name).read_text())
        del content[since]
        content.get("settings", {}).pop("architecture", None)
        (tmp_path / "run" / name).write_text(json.dumps(content))
    capsys.readouterr()
    assert pruner("prune", *options) == 0
    assert "uniform" in capsys.readouterr().out


def test_a_damaged_file_of_a_run_is_named(workshop, tmp_path, pruner, capsys):
    options = prune_arguments(workshop, tmp_path / "run", method="random", epochs=0)
    assert pruner("prune", *options) == 0
    for name, content in (("result.json", b"{"), ("origin.json", b"\xff")):
        whole = (tmp_path / "run" / name).read_bytes()
        (tmp_path / "run" / name).write_bytes(content)
        assert pruner("prune", *options) == 1
        assert f"{name} is damaged" in capsys.readouterr().err
        (tmp_path / "run" / name).write_bytes(whole)
    for name in ("result.json", "architecture.json"):
        (tmp_path / "run" / name).unlink()
    (tmp_path / "run" / "search.jsonl").write_text('{"accuracy": 0.5, "latency_s": 1e-3}\n')
    assert pruner("prune", *options) == 1
    assert "not a search log line" in capsys.readouterr().err


def test_a_model_traced_for_the_wrong_images_is_one_line(tmp_path, pruner, capfd):
    options = ("--model", "resnet20", "--input", "1x32x32", "--out", tmp_path / "net.json")
    assert pruner("trace", *options) == 1
    error = capfd.readouterr().err
    assert error.startswith("error: cannot run the model on one 1×32×32 input")
    assert "Traceback" not in error


def test_tracing_says_which_layers_keep_their_width(tmp_path, pruner, capsys):
    assert pruner("trace", "--model", "resnet20", "--out", tmp_path / "net.json") == 0
    assert "keep their width, as the output and what meets grouped layers do: linear" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("options", "says"),
    [(["--no-widths"], "give --depth too"),
     (["--no-widths", "--depth", "--method", "uniform"], "uniform decides widths only"),
     (["--depth", "--method", "magnitude"], "magnitude never removes a block")],
)  # fmt: skip
def test_a_run_without_anything_to_decide_is_refused(
    workshop, tmp_path, pruner, capsys, options, says
):
    assert pruner("prune", *prune_arguments(workshop, tmp_path / "run"), *options) == 1
    assert says in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_finished_run_is_loaded_and_evaluated(workshop, tmp_path, pruner, capsys):
    assert pruner("prune", *prune_arguments(workshop, tmp_path / "run")) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    model = load_run(tmp_path / "run")
    x, _ = load_data("digits").test.batch(torch.arange(4))
    assert model(x).shape == (4, 10)
    capsys.readouterr()
    assert pruner("evaluate", "--run", tmp_path / "run", "--data", "digits", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["accuracy"] == result["accuracy"]["fine_tuned"]
    assert answer["onnx_accuracy"] == result["accuracy"]["exported"]
    both = ["--run", tmp_path / "run", "--model", FACTORY]
    assert pruner("evaluate", *both, "--data", "digits") == 1
    assert "either --model with --weights, or --run" in capsys.readouterr().err


@pytest.mark.parametrize("stage", ["search", "fine-tune"])
def test_an_interrupted_run_continues_to_the_same_answer(
    workshop, tmp_path, pruner, monkeypatch, stage
):
    assert pruner("prune", *prune_arguments(workshop, tmp_path / "whole")) == 0
    monkeypatch.setattr("pruner.finetune.SAVE_EVERY", 2)
    real = pruner_cli._Stages.__call__

    def interrupt(self, step, done, total, text):
        if step == stage and done == 4:
            raise KeyboardInterrupt
        real(self, step, done, total, text)

    with monkeypatch.context() as patch:
        patch.setattr(pruner_cli._Stages, "__call__", interrupt)
        assert pruner("prune", *prune_arguments(workshop, tmp_path / "cut")) == 130
    assert not (tmp_path / "cut" / "result.json").exists()
    assert (tmp_path / "cut" / "checkpoint.pt").exists() is (stage == "fine-tune")
    (tmp_path / "cut" / "seconds.json").unlink()  # as if it had been killed
    assert pruner("prune", *prune_arguments(workshop, tmp_path / "cut")) == 0
    result = json.loads((tmp_path / "cut" / "result.json").read_text())
    scored = (tmp_path / "cut" / "search.jsonl").read_text().splitlines()
    learned = sum(epoch["seconds"] for epoch in result["training"])
    assert result["seconds"]["search"] >= sum(json.loads(row)["evaluation_s"] for row in scored)
    assert result["seconds"]["fine_tune"] >= learned > 0
    for name in ("architecture.json", "model.safetensors"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("patience", [0, 1])
def test_held_out_images_are_trained_on_unless_they_end_the_training(
    workshop, tmp_path, pruner, monkeypatch, patience
):
    data, batch, totals = load_data("digits"), 10, set()
    monkeypatch.setattr(
        pruner_cli._Stages,
        "__call__",
        lambda self, step, done, total, text: step == "fine-tune" and totals.add(total),
    )
    changes = {"method": "uniform", "batch": batch, "patience": patience}
    assert pruner("prune", *prune_arguments(workshop, tmp_path / "run", **changes)) == 0
    images = data.train if patience else data.all_training
    assert totals == {len(images) // batch}


def test_predict_prints_what_scripts_need(workshop, tmp_path, latprof, capsys):
    path = tmp_path / "a.json"
    path.write_text('{"widths": {"conv1": 8}, "removed": ["layer1.0"]}')
    arguments = ["--network", workshop / "small_resnet.json", "--architecture", path]
    assert latprof("predict", "--table", workshop / "table", *arguments, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["low_ms"] < answer["latency_ms"] < answer["high_ms"] <= answer["dense_ms"] * 2
    assert answer["speedup"] == pytest.approx(answer["dense_ms"] / answer["latency_ms"])
    assert {layer["name"] for layer in answer["layers"]} >= {"conv1", "linear"}
    assert latprof("predict", "--table", workshop / "table", *arguments) == 0
    assert "interpolated" in capsys.readouterr().out


def test_validate_measures_without_changing_the_table(workshop, latprof, capsys):
    table = workshop / "table"
    before = (table / "small_resnet.jsonl").read_bytes()
    arguments = ["--table", table, "--network", workshop / "small_resnet.json", "--samples", "10"]
    assert latprof("validate", *arguments, "--json") == 0
    results = json.loads(capsys.readouterr().out)
    assert [result["widths"] for result in results] == ["menu", "any"]
    assert sum(result["architectures"] + result["dropped"] for result in results) == 10
    assert (table / "small_resnet.jsonl").read_bytes() == before


def test_a_doubtful_table_says_so(capsys):
    result = Validation(
        architectures=40, rmspe=0.09, within_5_percent=0.6, rank_correlation=0.9, worst=0.2,
        flops_rmspe=0.1, flops_rank_correlation=0.9, interval_90=0.2, measuring_s=9.0,
        peak_memory_bytes=1, measured_at="now", tool_version="0",
    )  # fmt: skip
    print_validations("net", Path("table"), [result], json_=False)
    assert "was the machine busy?" in capsys.readouterr().out
    good = result.model_copy(update={"rmspe": 0.01})
    print_validations("net", Path("table"), [good], json_=False)
    assert "busy" not in capsys.readouterr().out


def test_explain_names_layers_steps_and_widths(workshop, tmp_path, latprof, capsys):
    path = tmp_path / "a.json"
    path.write_text('{"widths": {"conv1": 31, "layer1.0.conv1": 17}}')
    arguments = ["--table", workshop / "table", "--network", workshop / "small_resnet.json"]
    arguments += ["--architecture", path]
    assert latprof("explain", *arguments) == 0
    assert "of its MACs" in capsys.readouterr().out
    assert latprof("explain", *arguments, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert {layer["bound_by"] for layer in answer["layers"]} <= {"launch", "memory", "compute"}
    for advice in answer["wider_and_no_slower"]:
        assert advice["instead"] > advice["width"]
    for advice in answer["narrower_and_faster"]:
        assert advice["instead"] < advice["width"]
        assert advice["saves_s"] > 0


def test_steps_lists_the_widths_worth_choosing(workshop, latprof, capsys):
    arguments = ["--table", workshop / "table", "--network", workshop / "small_resnet.json"]
    assert latprof("steps", *arguments) == 0
    assert "widths worth choosing" in capsys.readouterr().out
    assert latprof("steps", *arguments, "--json") == 0
    menu = json.loads(capsys.readouterr().out)["menu"]
    assert menu["conv1"][-1] == 64
    assert latprof("steps", *arguments, "--group", "conv1") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].endswith("edge")
    assert latprof("steps", *arguments, "--group", "conv1", "--json") == 0
    assert {row["edge"] for row in json.loads(capsys.readouterr().out)} == {True, False}
    assert latprof("steps", *arguments[:-1], "small_resnet") == 0  # its file lies beside the rows
    assert latprof("steps", *arguments, "--group", "nope") == 1
    assert "--group 'nope': small_resnet has conv1" in capsys.readouterr().err


def test_a_table_does_not_differ_from_itself_and_says_so(workshop, latprof, capsys):
    table = workshop / "table"
    network = ["--network", workshop / "small_resnet.json"]
    assert latprof("diff", table, table, *network) == 0
    assert "0 of" in capsys.readouterr().out
    assert latprof("diff", table, table, *network, "--json") == 0
    assert json.loads(capsys.readouterr().out)["small_resnet"]["changed"] == []


def test_tables_of_two_processors_are_told_apart_by_device_layer_and_network(latprof, capsys):
    tables = [DATA / name for name in ("intel_xeon_processor_1t", "amd_epyc_1t")]
    assert latprof("diff", *tables, "--network", "vgg16_32") == 5
    told = capsys.readouterr().out
    assert "device processor: Intel(R) Xeon(R) Processor → AMD EPYC" in told
    assert "device runtime_version: 1.31.1 → 1.32.0" in told
    assert "entries differ beyond noise" in told
    assert "predicted speedups change by" in told


def test_a_network_that_no_table_holds_is_no_difference_but_a_mistake(workshop, latprof, capsys):
    table = workshop / "table"
    assert latprof("diff", table, table, "--network", "resnet65") == 1
    assert "both tables hold small_resnet" in capsys.readouterr().err


def test_sealing_anew_takes_sound_files_only_and_keeps_the_version(
    workshop, tmp_path, latprof, capsys
):
    table = tmp_path / "t"
    shutil.copytree(workshop / "table", table)
    manifest = load_manifest(table).model_copy(update={"version": 3})
    (table / MANIFEST).write_text(manifest.to_json())
    rows = table / "small_resnet.jsonl"
    whole = rows.read_text()
    rows.write_text(whole.replace(":", ";", 1))
    before = (table / MANIFEST).read_text()
    assert latprof("verify", table, "--seal") == 1
    assert (table / MANIFEST).read_text() == before
    rows.write_text(whole)
    (table / MANIFEST).write_text("{")
    assert latprof("verify", table, "--seal") == 0
    (table / MANIFEST).write_text(before)
    assert latprof("verify", table, "--seal") == 0
    assert load_manifest(table).version == 3
    assert [path.name for path in table.glob("*.former")] == []
    (tmp_path / "p").mkdir()
    shutil.copy(table / MANIFEST, tmp_path / "p")
    capsys.readouterr()
    assert latprof("verify", tmp_path / "p", "--seal") == 1
    assert "is no table's own folder" in capsys.readouterr().err
    assert (tmp_path / "p" / MANIFEST).exists()


def test_a_table_that_became_slower_in_part_ends_diff_with_code_5(
    workshop, tmp_path, latprof, capsys
):
    table = LatencyTable.open(workshop / "table")
    slower = LatencyTable.create(tmp_path / "slower", table.device)
    rows = []
    for row in table.rows("small_resnet"):
        if getattr(row, "layers", ()):
            layers = tuple(
                entry.model_copy(update={"seconds": entry.seconds * 4})
                if entry.layer.in_size == (4, 4)
                else entry
                for entry in row.layers
            )
            row = row.model_copy(update={"layers": layers})
        rows.append(row)
    slower.append("small_resnet", rows)
    arguments = ["diff", workshop / "table", slower.folder]
    assert latprof(*arguments, "--network", workshop / "small_resnet.json") == 5
    printed = capsys.readouterr().out
    assert "differ beyond noise" in printed
    assert "at 4×4" in printed


def test_a_network_that_exists_only_as_onnx_is_profiled(
    workshop, tmp_path, latprof, capsys, monkeypatch
):
    monkeypatch.setattr("latprof.profile.TARGET_S", 0.005)
    (tmp_path / "dense.json").write_text("{}")
    arguments = ["--architecture", tmp_path / "dense.json", "--out", tmp_path / "My Net.onnx"]
    assert latprof("export", "--network", workshop / "small_resnet.json", *arguments) == 0
    out = ["--out", tmp_path / "table"]
    options = ["--onnx", tmp_path / "My Net.onnx", "--levels", "2", "--samples", "4", *out]
    assert latprof("profile", *options) == 0
    printed = capsys.readouterr().out
    assert re.search(r"My Net\.onnx itself takes \d\.\d+× of the network", printed)
    saved = tmp_path / "table" / "my_net.network.json"
    path = tmp_path / "dense.json"
    table = ["--table", tmp_path / "table", "--network", saved]
    assert latprof("predict", *table, "--architecture", path) == 0


def test_profile_wants_a_network_or_a_file_but_not_both(latprof, capsys):
    assert latprof("profile") == 1
    assert "either --network or --onnx" in capsys.readouterr().err


def test_an_error_that_was_not_reached_ends_with_code_4(
    workshop, tmp_path, latprof, capsys, monkeypatch
):
    monkeypatch.setattr("latprof.profile.TARGET_S", 0.005)
    arguments = ["--network", workshop / "small_resnet.json", "--levels", "2", "--samples", "4"]
    arguments += ["--error", "0.001%", "--budget", "5s", "--out", tmp_path / "t"]
    assert latprof("profile", *arguments) == 4
    assert "stopped by the budget of 5 s: reached" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["soon", "0%", "150%", "-1%"])
def test_a_wrong_error_is_refused(latprof, capsys, text):
    assert latprof("profile", "--network", "resnet20", f"--error={text}", "--dry-run") == 1
    assert "expected a share such as 2%" in capsys.readouterr().err


def test_export_writes_a_network_that_compare_times(workshop, tmp_path, latprof, capsys):
    net = workshop / "small_resnet.json"
    (tmp_path / "dense.json").write_text("{}")
    (tmp_path / "thin.json").write_text('{"widths": {"conv1": 2}}')
    for name in ("dense", "thin"):
        arguments = [
            "--architecture",
            tmp_path / f"{name}.json",
            "--out",
            tmp_path / f"{name}.onnx",
        ]
        assert latprof("export", "--network", net, *arguments) == 0
    capsys.readouterr()
    assert latprof("compare", tmp_path / "dense.onnx", tmp_path / "thin.onnx", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["speedup_low"] <= answer["speedup"] <= answer["speedup_high"]
    assert answer["pairs"] > 0


def test_a_dry_run_says_what_would_be_measured(workshop, latprof, capsys):
    net = workshop / "small_resnet.json"
    assert latprof("profile", "--network", net, "--dry-run", "--out", workshop / "never") == 0
    printed = capsys.readouterr().out
    assert "120 pruned networks to measure layer by layer" in printed
    assert re.search(r"About \d+ s", printed)
    assert not (workshop / "never").exists()


def test_a_profile_without_a_folder_leaves_another_devices_table_of_that_name_alone(
    workshop, tmp_path, monkeypatch, latprof, capsys
):
    monkeypatch.setattr("lookup_tables.table.DATA", tmp_path / "no_checkout" / "data")
    monkeypatch.setattr("latprof.profile.TARGET_S", 0.02)
    monkeypatch.chdir(tmp_path)
    identity = json.loads((workshop / "table" / "device.json").read_text())
    taken = tmp_path / "tables" / identity["name"]
    taken.mkdir(parents=True)
    other = identity | {"runtime_version": "1.0.0"}
    (taken / "device.json").write_text(json.dumps(other))
    network = workshop / "small_resnet.json"
    assert latprof("profile", "--network", network, "--levels", 3, "--samples", 2) == 0
    said = capsys.readouterr().err
    assert f"tables/{identity['name']} is of another device" in said
    assert f"runtime_version: 1.0.0 there, {identity['runtime_version']} here" in said
    beside = taken.with_name(f"{identity['name']}_{identity['runtime_version']}")
    assert (beside / "small_resnet.jsonl").exists()
    assert json.loads((beside / "device.json").read_text())["name"] == beside.name
    assert [path.name for path in taken.iterdir()] == ["device.json"]
    assert json.loads((taken / "device.json").read_text()) == other


def test_a_dry_run_leaves_out_what_an_interrupted_profile_has_measured(
    workshop, tmp_path, latprof, capsys
):
    def asked(folder, levels=3):
        options = ("--network", workshop / "small_resnet.json", "--levels", levels, "--out", folder)
        capsys.readouterr()
        code = latprof("profile", *options, "--dry-run")
        said = capsys.readouterr()
        found = re.search(r"(\d+) pruned networks to measure .* and (\d+) unseen", said.out)
        return code, said, [int(number) for number in found.groups()] if found else None

    begun = tmp_path / "begun"
    begun.mkdir()
    shutil.copy(workshop / "table" / "device.json", begun)
    rows_of = begun / "small_resnet.jsonl"
    rows = (workshop / "table" / "small_resnet.jsonl").read_text().splitlines(keepends=True)
    rows_of.write_text("".join(rows[:8]) + rows[8][:40])  # killed while it wrote
    _, _, whole = asked(tmp_path / "new")
    code, said, missing = asked(begun)
    assert code == 0
    there = re.search(r"has (\d+) of the pruned and (\d+) of the unseen ones already", said.out)
    designed, judged = map(int, there.groups())
    assert designed + judged == 7
    assert missing == [whole[0] - designed, whole[1] - judged]
    assert rows_of.read_text().endswith(rows[8][:40]), "nothing is written"
    code, said, _ = asked(begun, levels=4)
    assert code == 1
    assert f"{rows_of} was begun with 3 levels" in said.err
    edited = tmp_path / "edited"
    shutil.copytree(workshop / "table", edited)
    (edited / rows_of.name).write_text("".join(rows).replace("0.", "1.", 1))
    code, said, _ = asked(edited)
    assert code == 1
    assert f"{edited / rows_of.name}, line " in said.err


def test_networks_and_devices_can_be_listed(workshop, latprof, capsys):
    assert latprof("networks", "--json") == 0
    assert "resnet56" in json.loads(capsys.readouterr().out)
    assert latprof("networks", "--network", "resnet20") == 0
    assert "group layer2.0.shortcut" in capsys.readouterr().out
    assert latprof("devices", "--table", workshop / "table", "--json") == 0
    assert json.loads(capsys.readouterr().out)["threads"] == 1
    assert latprof("devices") == 0
    assert "processor" in capsys.readouterr().out


# -- what goes wrong -------------------------------------------------------------------------------


def test_a_device_that_is_not_here_ends_with_code_3(latprof, capsys):
    assert latprof("profile", "--network", "resnet20", "--device", "titan_rtx") == 3
    message = capsys.readouterr().err
    assert message.startswith("error: device titan_rtx is not here. This machine has: CPU")
    assert "Traceback" not in message


def test_a_foreign_table_prunes_but_is_not_measured_here(workshop, tmp_path, pruner, capsys):
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    device = Device.load(workshop / "table" / "device.json")
    device.model_copy(update={"name": "other_1t", "processor": "other"}).save(
        foreign / "device.json"
    )
    rows = (workshop / "table" / "small_resnet.jsonl").read_bytes()
    (foreign / "small_resnet.jsonl").write_bytes(rows)
    assert pruner("prune", *prune_arguments(workshop, tmp_path / "run", table=foreign)) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["measured"] is None
    assert "(other_1t) was measured on another device" in result["not_measured_because"]
    assert "found other" in result["not_measured_because"]
    assert "not measured" in capsys.readouterr().out


def test_validating_a_foreign_table_is_refused(workshop, tmp_path, latprof, capsys):
    device = Device.load(workshop / "table" / "device.json")
    device.model_copy(update={"runtime_version": "0.1"}).save(tmp_path / "device.json")
    arguments = ["--network", workshop / "small_resnet.json"]
    assert latprof("validate", "--table", tmp_path, *arguments) == 3
    assert "runtime_version: expected" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"speedup": 500}, "The fastest on the menu"),
        ({"data_dir": "images"}, "--data-dir images: digits needs no folder; leave it out"),
        ({"speedup": -1}, "--speedup must be positive"),
        ({"method": "magic"}, "--method 'magic' is unknown; choose one of thompson"),
        ({"criterion": "magic"}, "--criterion 'magic' is unknown"),
        ({"reward": "error"}, "--reward has no effect with --method thompson; it applies to rl"),
        ({"method": "greedy", "agent": "cma"}, "--agent has no effect with --method greedy"),
        ({"latency_ms": 1}, "exactly one of --speedup and --latency-ms"),
        ({"speedup": "inf"}, "--speedup must be positive and finite"),
        ({"keep_width": "conv9"}, "--keep-width 'conv9': no layer of small_resnet; nearest: conv1"),
        ({"architecture": "none.json", "episodes": 300}, "none.json: no such architecture file"),
        ({"weights": "none.safetensors"}, "no such weights file"),
        ({"table": "no_table"}, "is no latency table"),
        ({"data": "cifar10"}, "needs --data-dir"),
    ],
)
def test_wrong_input_is_one_clear_line_and_leaves_nothing_behind(
    workshop, tmp_path, pruner, capsys, changes, message
):
    assert pruner("prune", *prune_arguments(workshop, tmp_path / "run", **changes)) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_continued_with_other_settings(workshop, tmp_path, pruner, capsys):
    assert pruner("prune", *prune_arguments(workshop, tmp_path / "run")) == 0
    assert pruner("prune", *prune_arguments(workshop, tmp_path / "run", speedup=1.3)) == 1
    assert "begun with other settings: speedup was 1.2, now 1.3" in capsys.readouterr().err


def test_a_run_goes_on_with_the_same_weights_wherever_they_lie_and_with_no_others(
    workshop, tmp_path, pruner, capsys
):
    weights = tmp_path / "w.safetensors"
    shutil.copy(workshop / "dense.safetensors", weights)
    run = lambda file: pruner(  # noqa: E731
        "prune", *prune_arguments(workshop, tmp_path / "run", weights=file, method="uniform")
    )
    assert run(weights) == 0
    assert run(workshop / "dense.safetensors") == 0
    state = load_file(weights)
    save_file({name: value * 0.5 for name, value in state.items()}, weights)
    assert run(weights) == 1
    assert f"begun with another content of {weights} (--weights)" in capsys.readouterr().err


def test_a_users_file_may_have_moved_but_another_function_of_it_gives_other_images(
    workshop, tmp_path, pruner, capsys
):
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "mine.py").write_text(IMAGES)

    def run(place, function):
        options = {
            "method": "uniform",
            "epochs": 0,
            "data": f"{tmp_path}/{place}/mine.py:{function}",
        }
        return pruner("prune", *prune_arguments(workshop, tmp_path / "run", **options))

    assert run("here", "images") == 0
    assert run("there", "images") == 0
    assert RunFolder.open(tmp_path / "run").settings.data == f"{tmp_path}/there/mine.py:images"
    assert run("here", "others") == 1
    assert "begun with other settings: data was" in capsys.readouterr().err


def test_a_run_that_another_process_writes_is_left_alone(workshop, tmp_path, pruner, capsys):
    options = prune_arguments(workshop, tmp_path / "run", method="uniform", epochs=0)
    assert pruner("prune", *options) == 0
    with only_writer(tmp_path / "run"):
        assert pruner("prune", *options) == 1
    assert "another process is writing into it" in capsys.readouterr().err


def test_a_run_made_elsewhere_is_measured_when_it_comes_to_the_device(workshop, tmp_path, pruner):
    table = tmp_path / "table"
    table.mkdir()
    shutil.copy(workshop / "table" / "small_resnet.jsonl", table)
    here = Device.load(workshop / "table" / "device.json")
    here.model_copy(update={"processor": "other"}).save(table / "device.json")
    options = prune_arguments(workshop, tmp_path / "run", table=table, method="uniform", epochs=0)
    assert pruner("prune", *options) == 0
    result = tmp_path / "run" / "result.json"
    before = result.read_text()
    assert pruner("prune", *options) == 0  # still elsewhere
    assert result.read_text() == before
    here.save(table / "device.json")
    assert pruner("prune", *options) == 0
    before, now = json.loads(before), json.loads(result.read_text())
    assert before["measured"] is None
    assert now["measured"]["speedup"] > 0
    assert now["accuracy"] == before["accuracy"]


def test_filters_are_selected_while_they_train_and_the_run_is_loaded_again(
    workshop, tmp_path, pruner, monkeypatch
):
    monkeypatch.setattr("pruner.prune.Phase", partial(Phase, steps=12, interval=4, batch=32))
    options = prune_arguments(workshop, tmp_path / "run", criterion="dynamic", regenerate=0.3)
    assert pruner("prune", *options) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["accuracy"]["fine_tuned"] > 0.5
    found = Architecture.load(tmp_path / "run" / "architecture.json")
    assert load_run(tmp_path / "run").conv1.out_channels == found.widths["conv1"]
    assert "--criterion dynamic --regenerate 0.3" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize("criterion", ["fpgm", "taylor"])
def test_a_criterion_is_an_option_of_a_run(workshop, tmp_path, pruner, criterion):
    options = prune_arguments(workshop, tmp_path / "run", method="uniform", epochs=0)
    assert pruner("prune", *options, "--criterion", criterion) == 0
    assert json.loads((tmp_path / "run" / "result.json").read_text())["accuracy"]["pruned"] > 0.1


def test_an_option_that_would_be_ignored_is_refused(workshop, tmp_path, pruner, capsys):
    options = prune_arguments(workshop, tmp_path / "run", regenerate=0.3)
    assert pruner("prune", *options) == 1
    assert "--regenerate has no effect with --criterion" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_network_without_blocks_is_not_pruned_in_depth(tmp_path, pruner, capsys):
    net, dense = tmp_path / "chain.py", tmp_path / "dense.safetensors"
    net.write_text(CHAIN)
    synthetic_table(tmp_path / "t", Network.load(_traced(pruner, net, tmp_path / "chain.json")))
    model = ("--model", f"{net}:chain", "--data", "digits")
    assert pruner("train", *model, "--epochs", 1, "--out", dense) == 0
    options = ("--weights", dense, "--table", tmp_path / "t", "--speedup", 1.1)
    assert pruner("prune", *model, *options, "--depth", "--out", tmp_path / "run") == 1
    assert "has no block that could go; leave it out" in capsys.readouterr().err


def test_trained_weights_are_never_taken_for_those_of_another_training(tmp_path, pruner, capsys):
    out = tmp_path / "dense.safetensors"
    train = ("train", "--model", FACTORY, "--data", "digits", "--out", out, "--epochs")
    assert pruner(*train, 1) == 0
    trained = out.read_bytes()
    assert pruner(*train, 1) == 0
    assert "exists already" in capsys.readouterr().out
    for other in ((2,), (1, "--half"), (1, "--seed", 1), (1, "--weights", out)):
        assert pruner(*train, *other) == 1
        assert "is of another training (" in capsys.readouterr().err
    assert pruner(*train, 1, "--weights", tmp_path / "gone.pth") == 1
    assert f"{tmp_path / 'gone.pth'}: No such file" in capsys.readouterr().err
    assert out.read_bytes() == trained


def test_weights_are_trained_into_safetensors_only(tmp_path, pruner, capsys):
    out = tmp_path / "w.pth"
    assert pruner("train", "--model", FACTORY, "--data", "digits", "--out", out) == 1
    assert "end it in .safetensors" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_with_other_things_is_not_taken_for_a_run(workshop, tmp_path, pruner, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert pruner("prune", *prune_arguments(workshop, tmp_path)) == 1
    assert "is not empty and is no run" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["3x32", "axbxc", "0x8x8"])
def test_a_wrong_input_shape_is_refused(tmp_path, pruner, capsys, text):
    arguments = ["--model", FACTORY, "--input", text, "--out", tmp_path / "n.json"]
    assert pruner("trace", *arguments) == 1
    assert "expected C×H×W" in capsys.readouterr().err


def test_a_wrong_number_of_levels_is_refused_with_the_right_ones(latprof, capsys):
    assert latprof("profile", "--network", "resnet20", "--levels=6", "--dry-run") == 1
    assert "--levels must be one of 2, 3, 4, 5, 7, 8" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--samples=1", "--batch=0", "--threads=0", "--seed=-1"])
def test_options_out_of_range_are_refused_by_name(latprof, capsys, option):
    assert latprof("profile", "--network", "resnet20", option, "--dry-run") == 2
    assert option.partition("=")[0] in capsys.readouterr().err


def test_a_model_and_a_data_set_that_do_not_fit_are_refused(workshop, tmp_path, pruner, capsys):
    (tmp_path / "seven.py").write_text(
        "from pruner.models.resnet import CifarResNet\n"
        "def seven():\n    return CifarResNet(1, (8, 8), classes=7, colours=1)\n"
    )
    arguments = ["--data", "digits", "--out", tmp_path / "w.safetensors"]
    assert pruner("train", "--model", f"{tmp_path}/seven.py:seven", *arguments) == 1
    assert "tells 7 classes apart, digits has 10" in capsys.readouterr().err
    assert pruner("train", "--model", "resnet20", *arguments) == 1
    assert "made for 3×32×32 images, those of digits are 1×8×8" in capsys.readouterr().err
    weights = tmp_path / "seven.safetensors"
    save_weights(CifarResNet(1, (8, 8), classes=7, colours=1), weights)
    seven = {"model": f"{tmp_path}/seven.py:seven", "weights": weights, "speedup": 500}
    assert pruner("prune", *prune_arguments(workshop, tmp_path / "run", **seven)) == 1
    assert "tells 7 classes apart, digits has 10" in capsys.readouterr().err
    assert pruner("trace", "--model", FACTORY, "--classes", 7, "--out", tmp_path / "n.json") == 1
    assert "says itself how many it tells apart" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("layers", "says"),
    [
        ("nn.Conv2d(3, 8, 3)", "cannot read the 1×8×8 images of digits"),
        ("nn.Conv2d(1, 10, 3)", "answers two images with (2, 10, 6, 6)"),
        ("nn.LSTM(8, 8)", "cannot read"),
    ],
)
def test_a_users_model_that_is_no_classifier_of_such_images_is_refused(
    tmp_path, pruner, capsys, layers, says
):
    (tmp_path / "mine.py").write_text(
        f"from torch import nn\ndef make():\n    return nn.Sequential({layers})\n"
    )
    own = ["--model", f"{tmp_path}/mine.py:make", "--data", "digits"]
    assert pruner("train", *own, "--out", tmp_path / "w.safetensors") == 1
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


AUXILIARY = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        shares = [x.item() for x in torch.linspace(0, 1, 2)]
        self.body = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.pool, self.flatten = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self.head, self.auxiliary = nn.Linear(8, 10), nn.Linear(8, 10)

    def forward(self, x):
        x = self.flatten(self.pool(self.body(x)))
        if self.training:
            return self.head(x), self.auxiliary(x)
        return self.head(x)
"""


def test_a_model_with_a_head_for_training_is_traced_as_it_is_used(tmp_path, pruner):
    (tmp_path / "mine.py").write_text(AUXILIARY)
    own = ["--model", f"{tmp_path}/mine.py:Net", "--input", "1x8x8"]
    assert pruner("trace", *own, "--out", tmp_path / "net.json") == 0
    names = [layer.name for layer in Network.load(tmp_path / "net.json").layers]
    assert "head" in names
    assert "auxiliary" not in names


def test_a_commit_is_that_of_this_project_and_not_of_one_that_it_is_installed_in(
    tmp_path, monkeypatch
):
    for words in (["init", "-q"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q",
                                   "--allow-empty", "-m", "x"]):  # fmt: skip
        subprocess.run(["git", "-C", tmp_path, *words], check=True)
    (tmp_path / "site" / "pruner").mkdir(parents=True)
    (tmp_path / "pruner").mkdir()
    monkeypatch.setattr(origin, "__file__", str(tmp_path / "site" / "pruner" / "origin.py"))
    assert origin.commit() is None
    monkeypatch.setattr(origin, "__file__", str(tmp_path / "pruner" / "origin.py"))
    assert len(origin.commit()) == 40


def test_a_run_is_not_continued_with_another_table(workshop, tmp_path, pruner, capsys):
    table = tmp_path / "table"
    shutil.copytree(workshop / "table", table)
    assert pruner("prune", *prune_arguments(workshop, tmp_path / "run", table=table)) == 0
    rows = (table / "small_resnet.jsonl").read_text().splitlines(keepends=True)
    another = json.loads(rows[1]) | {"attempt": 9}
    (table / "small_resnet.jsonl").write_text("".join([*rows, json.dumps(another) + "\n"]))
    assert pruner("prune", *prune_arguments(workshop, tmp_path / "run", table=table)) == 1
    assert "its rows or how they are read have changed" in capsys.readouterr().err


def test_a_file_for_another_batch_is_not_compared_on_a_tables_device(
    workshop, tmp_path, latprof, capsys
):
    (tmp_path / "a.json").write_text("{}")
    for batch in (1, 2):
        arguments = ["--architecture", tmp_path / "a.json", "--batch", batch]
        arguments += [
            "--network",
            workshop / "small_resnet.json",
            "--out",
            tmp_path / f"{batch}.onnx",
        ]
        assert latprof("export", *arguments) == 0
    files = [tmp_path / "1.onnx", tmp_path / "2.onnx"]
    assert latprof("compare", *files, "--table", workshop / "table") == 1
    assert "made for batches of 2, the table's device runs 1" in capsys.readouterr().err


def test_files_that_read_other_images_or_cannot_run_are_not_compared(
    workshop, tmp_path, latprof, capsys
):
    good, wide, broken = (tmp_path / f"{name}.onnx" for name in ("good", "wide", "broken"))
    (tmp_path / "a.json").write_text("{}")
    network = ("--network", workshop / "small_resnet.json", "--architecture", tmp_path / "a.json")
    assert latprof("export", *network, "--out", good) == 0
    model = onnx.load(good)
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 9
    onnx.save(model, wide)
    assert latprof("compare", good, wide) == 1
    assert "reads" in capsys.readouterr().err
    model.graph.input[0].type.tensor_type.shape.dim[2].ClearField("dim_value")
    onnx.save(model, wide)
    assert latprof("compare", good, wide) == 1
    assert "free dimensions beside the batch" in capsys.readouterr().err
    model = onnx.load(good)
    model.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(model, broken)
    assert latprof("compare", good, broken) == 1
    assert "the runtime cannot run it" in capsys.readouterr().err


def test_a_file_that_is_no_architecture_is_named(workshop, tmp_path, latprof, capsys):
    path = tmp_path / "a.json"
    path.write_bytes(b"\x80\xff\x00")
    options = ("--network", workshop / "small_resnet.json", "--architecture", path)
    assert latprof("export", *options, "--out", tmp_path / "x.onnx") == 1
    assert f"{path}: not an architecture" in capsys.readouterr().err


def test_a_network_of_which_nothing_can_be_chosen_is_not_profiled(
    workshop, tmp_path, latprof, capsys
):
    frozen = Network.load(workshop / "small_resnet.json")
    layers = tuple(layer.model_copy(update={"group": None}) for layer in frozen.layers)
    frozen.model_copy(update={"layers": layers, "groups": (), "blocks": ()}).save(
        tmp_path / "n.json"
    )
    assert latprof("profile", "--network", tmp_path / "n.json", "--out", tmp_path / "t") == 1
    assert "nothing to choose" in capsys.readouterr().err
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize("text", ["soon", "0", "-5s", "3 days"])
def test_a_wrong_duration_is_refused(latprof, capsys, text):
    assert latprof("profile", "--network", "resnet20", f"--budget={text}", "--dry-run") == 1
    assert "expected a duration such as 90s" in capsys.readouterr().err
