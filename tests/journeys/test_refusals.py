"""What goes wrong in a run ends in one clear line and loses nothing."""

import json
import shutil
from types import SimpleNamespace

import pytest

from latprof.__main__ import main as entry
from lookup_tables.device import Device
from lookup_tables.network import Network
from lookup_tables.storage.files import only_writer
from pruner.models.resnet import CifarResNet
from pruner.train.weights import save_weights
from tests.commands import FACTORY, command, prune_arguments


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


@pytest.mark.parametrize("command", [["doctor"], ["networks"], ["verify", "."], ["list", "."]])
def test_an_interrupted_latprof_ends_with_130(latprof, monkeypatch, command):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    asked = "read.examine", "read.network_names", "share.LatencyTable.open", "share.Place"
    for place in asked:
        monkeypatch.setattr(f"latprof.cli.{place}", interrupted)
    assert latprof(*command) == 130


@pytest.mark.parametrize(
    "command", [["trace", "--out", "n"], ["export", "--run", ".", "--out", "n.onnx"]]
)
def test_an_interrupted_pruner_ends_with_130(pruner, monkeypatch, command):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("pruner.cli.networks.models.build", interrupted)
    monkeypatch.setattr("pruner.cli.networks.RunFolder", SimpleNamespace(open=interrupted))
    more = ["--model", "resnet20"] if command[0] == "trace" else []
    assert pruner(*command, *more) == 130


def test_windows_is_refused_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr("sys.platform", "win32")
    assert command(monkeypatch, entry, "devices") == 1
    error = capsys.readouterr().err
    assert "Run it in WSL 2" in error
    assert error.count("\n") == 1


def test_a_search_is_not_continued_by_a_version_that_scores_otherwise(
    workshop, tmp_path, pruner, capsys, monkeypatch
):
    out = tmp_path / "run"
    options = prune_arguments(workshop, out, method="uniform", epochs=0)
    assert pruner("prune", *options) == 0
    monkeypatch.setattr("pruner.run.prune.SCORE", 0)
    capsys.readouterr()
    assert pruner("prune", *options) == 0, "what was found stays found"
    (out / "result.json").unlink()
    (out / "architecture.json").unlink()
    assert pruner("prune", *options) == 1
    assert "scored candidates differently" in capsys.readouterr().err


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


@pytest.mark.parametrize(
    ("options", "says"),
    [(["--no-widths"], "give --depth or --density too"),
     (["--no-widths", "--depth", "--method", "uniform"], "uniform decides widths only"),
     (["--depth", "--method", "magnitude"], "magnitude never removes a block")],
)  # fmt: skip
def test_a_run_without_anything_to_decide_is_refused(
    workshop, tmp_path, pruner, capsys, options, says
):
    assert pruner("prune", *prune_arguments(workshop, tmp_path / "run"), *options) == 1
    assert says in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.timed
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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"speedup": 500}, "The fastest with candidate widths"),
        ({"data_dir": "images"}, "--data-dir images: digits needs no folder; leave it out"),
        ({"speedup": -1}, "--speedup must be positive"),
        ({"method": "magic"}, "--method 'magic' is unknown; choose one of thompson"),
        ({"criterion": "magic"}, "--criterion 'magic' is unknown"),
        ({"reward": "error"}, "--reward has no effect with --method thompson; it applies to lap"),
        ({"method": "greedy", "agent": "cma"}, "--agent has no effect with --method greedy"),
        ({"latency_ms": 1}, "exactly one of --speedup and --latency-ms"),
        ({"speedup": "inf"}, "--speedup must be positive and finite"),
        (
            {"keep_width": "conv9"},
            "--keep-width 'conv9': small_resnet has no such layer; nearest: conv1",
        ),
        (
            {"method": "layerprune", "keep_layer": "conv9"},
            "--keep-layer 'conv9': small_resnet has no such layer or block; nearest: conv1",
        ),
        (
            {"method": "layerprune", "layer_criterion": "magic"},
            "--layer-criterion 'magic' is unknown; choose one of weight_magnitude",
        ),
        (
            {"method": "filters", "layer_criterion": "imprinting"},
            "--layer-criterion imprinting scores layers, not their filters",
        ),
        (
            {"method": "layerprune", "speedup": 500},
            "narrow layers (--method thompson --depth) or leave out weights (--density)",
        ),
        ({"architecture": "none.json", "episodes": 300}, "none.json: no such architecture file"),
        ({"weights": "none.safetensors"}, "no such weights file"),
        ({"table": "no_table"}, "is not a latency table"),
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


def test_a_run_that_another_process_writes_is_left_alone(workshop, tmp_path, pruner, capsys):
    options = prune_arguments(workshop, tmp_path / "run", method="uniform", epochs=0)
    assert pruner("prune", *options) == 0
    with only_writer(tmp_path / "run"):
        assert pruner("prune", *options) == 1
    assert "another process is writing into it" in capsys.readouterr().err


def test_an_option_that_would_be_ignored_is_refused(workshop, tmp_path, pruner, capsys):
    options = prune_arguments(workshop, tmp_path / "run", regenerate=0.3)
    assert pruner("prune", *options) == 1
    assert "--regenerate has no effect with --criterion" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_trained_weights_are_never_taken_for_those_of_another_training(tmp_path, pruner, capsys):
    out = tmp_path / "dense.safetensors"
    train = ("train", "--model", FACTORY, "--data", "digits", "--out", out, "--epochs")
    assert pruner(*train, 1) == 0
    trained = out.read_bytes()
    assert pruner(*train, 1) == 0
    assert "exists already" in capsys.readouterr().out
    for other in ((2,), (1, "--half"), (1, "--seed", 1), (1, "--weights", out)):
        assert pruner(*train, *other) == 1
        assert "comes from another training (" in capsys.readouterr().err
    assert pruner(*train, 1, "--weights", tmp_path / "gone.pth") == 1
    assert f"{tmp_path / 'gone.pth'}: No such file" in capsys.readouterr().err
    assert out.read_bytes() == trained


def test_a_folder_with_other_things_is_not_taken_for_a_run(workshop, tmp_path, pruner, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert pruner("prune", *prune_arguments(workshop, tmp_path)) == 1
    assert "is not empty and is not a run" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["3x32", "axbxc", "0x8x8"])
def test_a_wrong_input_shape_is_refused(tmp_path, pruner, capsys, text):
    arguments = ["--model", FACTORY, "--input", text, "--out", tmp_path / "n.json"]
    assert pruner("trace", *arguments) == 1
    assert "expected C×H×W" in capsys.readouterr().err


def test_a_model_and_a_data_set_that_do_not_fit_are_refused(workshop, tmp_path, pruner, capsys):
    (tmp_path / "seven.py").write_text(
        "from pruner.models.resnet import CifarResNet\n"
        "def seven():\n    return CifarResNet(1, (8, 8), classes=7, colours=1)\n"
    )
    arguments = ["--data", "digits", "--out", tmp_path / "w.safetensors"]
    assert pruner("train", "--model", f"{tmp_path}/seven.py:seven", *arguments) == 1
    assert "has 7 classes, but digits has 10" in capsys.readouterr().err
    assert pruner("train", "--model", "resnet20", *arguments) == 1
    assert "expects 3×32×32 images, but those of digits are 1×8×8" in capsys.readouterr().err
    weights = tmp_path / "seven.safetensors"
    save_weights(CifarResNet(1, (8, 8), classes=7, colours=1), weights)
    seven = {"model": f"{tmp_path}/seven.py:seven", "weights": weights, "speedup": 500}
    assert pruner("prune", *prune_arguments(workshop, tmp_path / "run", **seven)) == 1
    assert "has 7 classes, but digits has 10" in capsys.readouterr().err
    assert pruner("trace", "--model", FACTORY, "--classes", 7, "--out", tmp_path / "n.json") == 1
    assert "sets its own number of classes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("layers", "says"),
    [
        ("nn.Conv2d(3, 8, 3)", "cannot read the 1×8×8 images of digits"),
        ("nn.Conv2d(1, 10, 3)", "returns (2, 10, 6, 6) for two images"),
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


def test_a_run_is_not_continued_with_another_table(workshop, tmp_path, pruner, capsys):
    table = tmp_path / "table"
    shutil.copytree(workshop / "table", table)
    assert pruner("prune", *prune_arguments(workshop, tmp_path / "run", table=table)) == 0
    rows = (table / "small_resnet.jsonl").read_text().splitlines(keepends=True)
    another = json.loads(rows[1]) | {"attempt": 9}
    (table / "small_resnet.jsonl").write_text("".join([*rows, json.dumps(another) + "\n"]))
    assert pruner("prune", *prune_arguments(workshop, tmp_path / "run", table=table)) == 1
    assert "the table has changed since the run began" in capsys.readouterr().err
