"""The journey from a model to a smaller one, through the commands."""

import html
import json
import re
import shlex
import shutil
import subprocess
from functools import partial

import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file

from lookup_tables.architecture import Architecture
from lookup_tables.device import Device
from lookup_tables.model.latency_model import LatencyModel
from lookup_tables.network import Network
from lookup_tables.storage import provenance
from lookup_tables.table.store import LatencyTable
from pruner.cli import progress
from pruner.criteria.dynamic import Phase
from pruner.data import load_data
from pruner.run import prune as pruner_prune
from pruner.run.folder import RunFolder
from pruner.run.prune import load_run
from pruner.run.settings import Settings
from pruner.train.accuracy import accuracy
from pruner.train.weights import load_weights
from tests.commands import FACTORY, prune_arguments
from tests.toys import food101_folder, imagenet_folder, photo_net, small_resnet, synthetic_table

PHOTO_NET = f"{photo_net.__code__.co_filename}:photo_net"
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


@pytest.mark.timed
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


def test_the_report_stands_alone_and_tells_the_whole_story(tuned_run, pruner, capsys):
    report = (tuned_run / "report.html").read_text()
    assert "http" not in report  # nothing is fetched
    for told in (
        "Where the time went", "layer1.0.conv1", "The widths chosen", "What the search tried",
        "Fine-tuning, epoch by epoch", "How to reproduce it",
    ):  # fmt: skip
        assert told in report
    assert report.count("<svg") == 5

    command = html.unescape(re.search("<pre><code>(.*?)</code></pre>", report, re.DOTALL)[1])
    program, *words = shlex.split(command.replace(" RUN", f" {tuned_run}"))
    assert program == "pruner"
    capsys.readouterr()
    assert pruner(*words, "--json") == 0  # the same settings: the finished run is found
    result = json.loads((tuned_run / "result.json").read_text())
    assert json.loads(capsys.readouterr().out) == result


def test_a_table_pushed_from_one_home_is_pruned_against_in_another(
    workshop, tmp_path, latprof, pruner, capsys, monkeypatch
):
    def at(home):
        (tmp_path / home).mkdir(exist_ok=True)
        monkeypatch.setenv("HOME", str(tmp_path / home))
        monkeypatch.chdir(tmp_path / home)

    place = tmp_path / "place"
    at("profiler")
    assert latprof("push", workshop / "table", place) == 0
    capsys.readouterr()
    assert latprof("list", place, "--json") == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert listed["networks"] == ["small_resnet"]
    at("pruner")
    assert latprof("pull", place, "--out", "table") == 0
    capsys.readouterr()
    options = prune_arguments(workshop, "run", table="table", epochs=0)
    assert pruner("prune", *options, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["predicted"]["speedup"] >= 1.2 * (1 - 1e-6)


def test_quiet_commands_leave_standard_error_empty(workshop, tmp_path, pruner, latprof, capsys):
    options = prune_arguments(workshop, tmp_path / "run", method="uniform", epochs=0)
    assert pruner("--quiet", "prune", *options) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "measured" in printed.out
    assert latprof("-q", "networks") == 0
    assert "resnet56" in capsys.readouterr().out


def test_a_budget_close_to_the_dense_network_still_gets_one_that_is_surely_faster(
    workshop, tmp_path, pruner, capsys
):
    close = prune_arguments(workshop, tmp_path / "run", speedup=1.001, method="random", epochs=0)
    assert pruner("prune", *close, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["predicted"]["high_ms"] < result["asked"]["dense_ms"]


def test_a_result_says_which_layers_bought_the_time(workshop, uniform_run, pruner, capsys):
    options = prune_arguments(workshop, uniform_run, method="uniform", epochs=0)
    assert pruner("prune", *options) == 0
    assert "time saved, by layer: " in capsys.readouterr().out
    result = json.loads((uniform_run / "result.json").read_text())
    saved = [row["dense_ms"] - row["pruned_ms"] for row in result["bought"]]
    assert saved == sorted(saved, reverse=True)
    difference = result["predicted"]["dense_ms"] - result["predicted"]["latency_ms"]
    assert sum(saved) == pytest.approx(difference, rel=0.5)  # dense: measured, layers: predicted


def test_a_run_outlives_its_tables_judgement_but_not_another_way_to_read_it(
    workshop, uniform_run, tmp_path, pruner, capsys, monkeypatch
):
    table = tmp_path / "table"
    shutil.copytree(workshop / "table", table)
    options = prune_arguments(workshop, uniform_run, table=table, method="uniform", epochs=0)
    opened = LatencyTable.open(table)
    opened.append("small_resnet", [opened.validation("small_resnet")])
    opened.seal("small_resnet")
    assert pruner("prune", *options) == 0
    monkeypatch.setattr("pruner.run.origin.PREDICTOR", 0)
    capsys.readouterr()
    assert pruner("prune", *options) == 1
    assert "the table has changed since the run began" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("data", "make"),
    [("imagenet", imagenet_folder), ("food101", food101_folder)],
)
def test_a_model_for_images_in_folders_is_trained_and_pruned(tmp_path, pruner, capsys, data, make):
    make(tmp_path / "images")
    weights, net, out = (tmp_path / name for name in ("dense.safetensors", "net.json", "run"))
    source = ["--model", PHOTO_NET, "--data", data, "--data-dir", tmp_path / "images"]
    source += ["--batch", 4]
    assert pruner("train", *source, "--epochs", 1, "--out", weights) == 0
    assert pruner("trace", "--model", PHOTO_NET, "--input", "3x224x224", "--out", net) == 0
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


@pytest.mark.parametrize("method", ["thompson", "lap", "greedy"])
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
    assert "has changed since the run began" in capsys.readouterr().err
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
    assert "layer2.0.conv1 has width 1, but the table covers widths from" in capsys.readouterr().err
    assert pruner("prune", *options, "--method", "random") == 1
    assert "--method has no effect with --architecture" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["thompson", "magnitude"])
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


def test_a_runs_numbers_are_those_of_its_networks(workshop, tuned_run):
    result = json.loads((tuned_run / "result.json").read_text())
    net = Network.load(workshop / "small_resnet.json")
    architecture = Architecture.load(tuned_run / "architecture.json")
    assert result["macs"] == {
        "dense": net.macs_of(net.dense), "pruned": net.macs_of(architecture)
    }  # fmt: skip
    dense, pruned = small_resnet(), load_run(tuned_run)
    assert result["parameters"] == {
        "dense": sum(p.numel() for p in dense.parameters()),
        "pruned": sum(p.numel() for p in pruned.parameters()),
    }
    load_weights(dense, workshop / "dense.safetensors")
    cut = load_run(tuned_run)
    load_weights(cut, tuned_run / "cut.safetensors")
    test = load_data("digits").test
    for name, model in (("dense", dense), ("pruned", cut), ("fine_tuned", pruned)):
        assert result["accuracy"][name] == pytest.approx(accuracy(model, test)), name
    assert result["predicted"]["low_ms"] < result["predicted"]["latency_ms"]
    assert result["predicted"]["latency_ms"] < result["predicted"]["high_ms"]
    assert result["table_error"].keys() == {"menu", "any"}


@pytest.mark.parametrize(
    "changes",
    [{"criterion": "dynamic"}, {"patience": 1}],
    ids=str,
)
def test_the_test_set_is_read_at_the_end_only(workshop, tmp_path, monkeypatch, changes):
    short = partial(Phase, steps=4, interval=2, batch=32)
    monkeypatch.setattr("pruner.criteria.dynamic.Phase", short)
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


def test_a_run_is_exported_for_several_images_at_once(uniform_run, tmp_path, pruner, capsys):
    out = tmp_path / "four.onnx"
    assert pruner("export", "--run", uniform_run, "--out", out, "--batch", 4) == 0
    shape = onnx.load(out).graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_value for d in shape] == [4, 1, 8, 8]
    assert pruner("export", "--run", uniform_run, "--out", tmp_path / "four.pb") == 1
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
    assert "its profile is not finished" in capsys.readouterr().out


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
    assert (
        "small_resnet, the same network with more classes; this one takes no longer"
        in capsys.readouterr().out
    )
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
    assert "the same network with more classes" in said
    assert latprof("explain", *asked, "--architecture", found) == 0
    assert latprof("steps", *asked) == 0


def test_a_run_that_an_earlier_version_finished_is_shown(workshop, uniform_run, pruner, capsys):
    options = prune_arguments(workshop, uniform_run, method="uniform", epochs=0)
    for name, since in (("result.json", "table_error"), ("settings.json", "architecture")):
        content = json.loads((uniform_run / name).read_text())
        del content[since]
        content.get("settings", {}).pop("architecture", None)
        (uniform_run / name).write_text(json.dumps(content))
    assert pruner("prune", *options) == 0
    assert "uniform" in capsys.readouterr().out


def test_tracing_says_which_layers_keep_their_width(tmp_path, pruner, capsys):
    options = ["--model", "resnet20", "--classes", 7, "--check", "--out", tmp_path / "net.json"]
    assert pruner("trace", *options) == 0
    assert Network.load(tmp_path / "net.json").layers[-1].channels == 7
    said = capsys.readouterr().out
    assert "keep their width, because the network's output is read as it is: linear" in said
    assert "cut at random, it answers as it should: largest difference" in said


def test_a_finished_run_is_loaded_and_evaluated(tuned_run, pruner, capsys):
    result = json.loads((tuned_run / "result.json").read_text())
    model = load_run(tuned_run)
    x, _ = load_data("digits").test.batch(torch.arange(4))
    assert model(x).shape == (4, 10)
    capsys.readouterr()
    assert pruner("evaluate", "--run", tuned_run, "--data", "digits", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["accuracy"] == result["accuracy"]["fine_tuned"]
    assert answer["onnx_accuracy"] == result["accuracy"]["exported"]
    both = ["--run", tuned_run, "--model", FACTORY]
    assert pruner("evaluate", *both, "--data", "digits") == 1
    assert "either --model with --weights, or --run" in capsys.readouterr().err


@pytest.mark.parametrize("stage", ["search", "fine-tune"])
def test_an_interrupted_run_continues_to_the_same_answer(
    workshop, tuned_run, tmp_path, pruner, monkeypatch, stage
):
    monkeypatch.setattr("pruner.train.finetune.SAVE_EVERY", 2)
    real = progress.Stages.__call__

    def interrupt(self, step, done, total, text):
        if step == stage and done == 4:
            raise KeyboardInterrupt
        real(self, step, done, total, text)

    with monkeypatch.context() as patch:
        patch.setattr(progress.Stages, "__call__", interrupt)
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
        assert (tmp_path / "cut" / name).read_bytes() == (tuned_run / name).read_bytes()


@pytest.mark.parametrize("patience", [0, 1])
def test_held_out_images_are_trained_on_unless_they_end_the_training(
    workshop, tmp_path, pruner, monkeypatch, patience
):
    data, batch, totals = load_data("digits"), 10, set()
    monkeypatch.setattr(
        progress.Stages,
        "__call__",
        lambda self, step, done, total, text: step == "fine-tune" and totals.add(total),
    )
    changes = {"method": "uniform", "batch": batch, "patience": patience}
    assert pruner("prune", *prune_arguments(workshop, tmp_path / "run", **changes)) == 0
    images = data.train if patience else data.all_training
    assert totals == {len(images) // batch}


def test_a_run_goes_on_with_the_same_weights_wherever_they_lie_and_with_no_others(
    workshop, uniform_run, tmp_path, pruner, capsys
):
    weights = tmp_path / "w.safetensors"
    shutil.copy(workshop / "dense.safetensors", weights)
    run = lambda file: pruner(  # noqa: E731
        "prune", *prune_arguments(workshop, uniform_run, weights=file, method="uniform", epochs=0)
    )
    assert run(weights) == 0
    assert run(workshop / "dense.safetensors") == 0
    state = load_file(weights)
    save_file({name: value * 0.5 for name, value in state.items()}, weights)
    assert run(weights) == 1
    assert f"{weights} (--weights) has changed since the run began" in capsys.readouterr().err


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


@pytest.mark.timed
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
    monkeypatch.setattr(
        "pruner.criteria.dynamic.Phase", partial(Phase, steps=12, interval=4, batch=32)
    )
    options = prune_arguments(workshop, tmp_path / "run", criterion="dynamic", regenerate=0.3)
    assert pruner("prune", *options) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["accuracy"]["fine_tuned"] > 0.5
    found = Architecture.load(tmp_path / "run" / "architecture.json")
    assert load_run(tmp_path / "run").conv1.out_channels == found.widths["conv1"]
    assert "--criterion dynamic --regenerate 0.3" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize("criterion", ["taylor"])
def test_a_criterion_is_an_option_of_a_run(workshop, tmp_path, pruner, criterion):
    options = prune_arguments(workshop, tmp_path / "run", method="uniform", epochs=0)
    assert pruner("prune", *options, "--criterion", criterion) == 0
    assert json.loads((tmp_path / "run" / "result.json").read_text())["accuracy"]["pruned"] > 0.1


def test_a_network_without_blocks_is_not_pruned_in_depth(tmp_path, pruner, capsys):
    net, dense = tmp_path / "chain.py", tmp_path / "dense.safetensors"
    net.write_text(CHAIN)
    synthetic_table(tmp_path / "t", Network.load(_traced(pruner, net, tmp_path / "chain.json")))
    model = ("--model", f"{net}:chain", "--data", "digits")
    assert pruner("train", *model, "--epochs", 1, "--out", dense) == 0
    options = ("--weights", dense, "--table", tmp_path / "t", "--speedup", 1.1)
    assert pruner("prune", *model, *options, "--depth", "--out", tmp_path / "run") == 1
    assert "has no removable block: no layer that keeps shape" in capsys.readouterr().err


def test_a_network_that_misses_its_budget_when_timed_is_searched_again(
    workshop, tmp_path, pruner, monkeypatch
):
    timed = []

    def measure(dense, pruned, table):
        timed.append(pruned.exists())
        share = 0.93 if len(timed) == 1 else 0.8  # of 1 / 1.2 = 0.83 that is allowed
        return {
            "latency_ms": share, "dense_ms": 1.0, "speedup": 1 / share, "speedup_low": 1.0,
            "speedup_high": 2.0,
        }  # fmt: skip

    monkeypatch.setattr("pruner.run.prune.measure_pair", measure)
    options = prune_arguments(workshop, tmp_path / "run", method="uniform", epochs=0)
    assert pruner("prune", *options, "--confirm") == 0
    assert timed == [True, True, True]  # two that were found, and the one that is handed over
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert [round(each["share_of_dense"], 2) for each in result["confirmed"]] == [0.93, 0.8]
    assert result["predicted"]["speedup"] > 1.25
    assert pruner("prune", *options, "--confirm") == 0  # finished: nothing is timed again
    assert len(timed) == 3


def test_weights_are_trained_into_safetensors_only(tmp_path, pruner, capsys):
    out = tmp_path / "w.pth"
    assert pruner("train", "--model", FACTORY, "--data", "digits", "--out", out) == 1
    assert "end it in .safetensors" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


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
    for folder, known in (("site/lookup_tables/storage", False), ("lookup_tables/storage", True)):
        (tmp_path / folder).mkdir(parents=True)
        monkeypatch.setattr(provenance, "__file__", str(tmp_path / folder / "provenance.py"))
        assert (provenance.commit() is not None) == known
    assert len(provenance.commit()) == 40
