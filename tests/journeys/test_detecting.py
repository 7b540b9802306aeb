"""A detector, from pictures to a smaller one, through the commands."""

import json
from dataclasses import replace

import numpy as np
import onnxruntime as ort
import pytest
import torch

from lookup_tables.architecture import Architecture
from lookup_tables.network import Network
from pruner import SearchError, models
from pruner import cli as pruner_cli
from pruner.criteria.dynamic import Phase, select
from pruner.criteria.layers import LAYER_CRITERIA
from pruner.data import load_data
from pruner.graph.surgery import cut
from pruner.graph.trace import trace
from pruner.run.prune import load_run
from pruner.train.accuracy import accuracy
from pruner.train.tasks.detection import Detection, DetectionSettings
from pruner.train.weights import made_by
from tests.commands import command
from tests.toys import synthetic_table

SIDE = 64
MODEL = ["--model", "shapes_yolov3", "--task", "detection"]


def few_shapes():
    """Fewer pictures than the set has."""
    data = load_data("shapes", image_size=SIDE)
    parts = {"train": 32, "held_out": 24, "test": 16}
    some = {name: getattr(data, name).part(range(count)) for name, count in parts.items()}
    return replace(data, name="few shapes", **some)


DATA = ["--data", f"{__file__}:few_shapes"]


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    """A detector's network, a table of it, weights after one epoch."""
    folder = tmp_path_factory.mktemp("gallery")
    with pytest.MonkeyPatch.context() as patch:
        for arguments in (
            ["trace", "--model", "shapes_yolov3", "--input", f"3x{SIDE}x{SIDE}",
             "--out", folder / "net.json"],
            ["train", *MODEL, *DATA, "--epochs", "1", "--batch", "8", "--rate", "0.01",
             "--out", folder / "dense.safetensors"],
        ):  # fmt: skip
            assert command(patch, pruner_cli.main, *arguments) == 0
    synthetic_table(folder / "table", Network.load(folder / "net.json"), levels=3)
    return folder


def asked(gallery, out, *more):
    return [
        "prune", *MODEL, *DATA, "--weights", gallery / "dense.safetensors", "--table",
        gallery / "table", "--speedup", "2", "--episodes", "4", "--epochs", "1", "--batch", "8",
        "--rate", "0.01", "--recalibration-images", "16", "--score-images", "16", "--out", out,
        *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def pruned(gallery, tmp_path_factory):
    out = tmp_path_factory.mktemp("pruned") / "run"
    with pytest.MonkeyPatch.context() as patch:
        arguments = asked(gallery, out, "--method", "abcp", "--depth")
        assert command(patch, pruner_cli.main, *arguments) == 0
    return out


def test_a_detector_is_pruned_by_abcp_within_its_budget(pruned):
    result = json.loads((pruned / "result.json").read_text())
    assert (result["metric"], result["settings"]["method"]) == ("mAP@0.5", "abcp")
    assert result["predicted"]["speedup"] >= 2
    assert result["parameters"]["pruned"] < result["parameters"]["dense"]
    assert set(result["details"]["fine_tuned"]) == {"mAP@0.5:0.95"}
    assert result["accuracy"]["exported"] == pytest.approx(result["accuracy"]["fine_tuned"])
    assert len((pruned / "search.jsonl").read_text().splitlines()) == 4


def test_its_report_shows_what_was_labelled_and_found(pruned):
    report = (pruned / "report.html").read_text()
    assert "From left to right: the truth, the dense network, the pruned one." in report
    assert "src='data:image/png;base64," in report
    assert "test mAP@0.5" in report
    assert "--task detection" in report


def test_boxes_from_onnx_equal_pytorchs_on_all_test_images(pruned):
    sees = Detection(DetectionSettings(least_score=1e-4))  # after one epoch it is not sure of any
    model, task, test = load_run(pruned), sees, few_shapes().test
    session = ort.InferenceSession(str(pruned / "model.onnx"))
    for index in range(len(test)):
        images, _ = test.batch(torch.tensor([index]))
        with torch.inference_mode():
            (mine,) = task.found(model(images))
        outputs = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        (theirs,) = task.found([torch.from_numpy(each) for each in outputs])
        assert len(mine.boxes)
        assert mine.boxes.classes.tolist() == theirs.boxes.classes.tolist()
        assert np.allclose(mine.boxes.corners, theirs.boxes.corners, atol=0.05)


def test_a_pruned_detector_is_judged_again_and_written_for_darknet(
    pruned, tmp_path, pruner, capsys
):
    assert pruner("evaluate", "--run", pruned, *DATA) == 0
    said = capsys.readouterr().out
    assert "mAP@0.5 on 16 test images" in said
    assert "mAP@0.5:0.95" in said
    out = tmp_path / "small.weights"
    assert pruner("export", "--run", pruned, "--out", out) == 0
    listed = out.with_suffix(".cfg").read_text()
    removed = Architecture.load(pruned / "architecture.json").removed
    assert listed.count("[shortcut]") == 7 - len(removed)
    assert listed.count("[yolo]") == 3


@pytest.mark.parametrize("criterion", ["batch_norm", "weight_taylor", "gate_taylor"])
def test_layers_of_a_detector_are_scored_by_its_own_loss(criterion):
    model = models.build("shapes_yolov3").eval()
    traced = trace(model, (3, SIDE, SIDE), "detector")
    scores = LAYER_CRITERIA[criterion](traced, few_shapes().train, Detection())
    assert set(scores) == {block.name for block in traced.network.blocks}
    assert all(np.isfinite(value) and value > 0 for value in scores.values())


def test_the_criterion_that_needs_classes_of_images_says_so():
    traced = trace(models.build("shapes_yolov3").eval(), (3, SIDE, SIDE), "detector")
    with pytest.raises(SearchError, match="imprinting"):
        LAYER_CRITERIA["imprinting"](traced, few_shapes().train, Detection())


def test_filters_of_a_detector_are_chosen_while_it_trains():
    model = models.build("shapes_yolov3").eval()
    traced = trace(model, (3, SIDE, SIDE), "detector")
    halves = {group.name: group.width // 2 for group in traced.network.groups}
    phase = Phase(steps=4, interval=2, batch=4)
    data, task = few_shapes(), Detection()
    cut_out, kept = select(traced, Architecture(widths=halves), data.train, phase, task=task)
    assert {name: len(channels) for name, channels in kept.items()} == halves
    small = cut(cut_out, Architecture(widths=halves), kept)
    assert 0 <= accuracy(small, data.test, task=task) <= 1


def test_anchors_are_found_and_can_be_given(gallery, tmp_path, pruner, capsys):
    assert pruner("anchors", *DATA) == 0
    found = capsys.readouterr().out.strip()
    assert found.count("x") == 9
    judge = ["evaluate", *MODEL, *DATA, "--weights", gallery / "dense.safetensors", "--no-onnx"]
    assert pruner(*judge, "--anchors", found) == 0
    assert pruner(*judge, "--anchors", "10x10,20x20,30x30") == 1
    assert "3 maps need 9, found 3" in capsys.readouterr().err


def test_a_training_by_a_task_of_ones_own_knows_its_file(gallery, tmp_path, pruner, capsys):
    file, out = tmp_path / "mine.py", tmp_path / "out.safetensors"
    file.write_text(
        "from pruner.train.tasks.detection import Detection\n\n\ndef task():\n"
        "    return Detection()\n"
    )
    train = ["train", "--model", "shapes_yolov3", *DATA, "--task", f"{file}:task"]
    train += ["--weights", gallery / "dense.safetensors", "--epochs", "1", "--batch", "32"]
    assert pruner(*train, "--rate", "0.001", "--out", out) == 0
    assert "task " in made_by(out)
    assert str(tmp_path) not in made_by(out)
    file.write_text(file.read_text() + "\n\nX = 1\n")
    assert pruner(*train, "--rate", "0.001", "--out", out) == 1
    assert "comes from another training" in capsys.readouterr().err


def test_what_does_not_fit_detection_is_refused(gallery, tmp_path, pruner, capsys):
    classifier = [*asked(gallery, tmp_path / "run"), "--task", "classification"]
    assert pruner(*classifier) == 1
    assert "classification expects one tensor" in capsys.readouterr().err
    assert pruner("anchors", "--data", "digits") == 1
    assert "digits has no boxes" in capsys.readouterr().err
    out = tmp_path / "x.safetensors"
    sized = ["train", *MODEL, "--data", "shapes", "--image-size", "50", "--out", out]
    assert pruner(*sized) == 1
    assert "--image-size 64 is one" in capsys.readouterr().err
    assert not out.exists()
