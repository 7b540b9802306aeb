"""Runs against tables in INT8 end in networks in INT8."""

import json
from collections import Counter

import onnx
import pytest
import torch

from lookup_tables.architecture import Architecture
from lookup_tables.network import Network
from pruner.cli import progress
from pruner.graph.masks import masks_of
from pruner.models.resnet import CifarResNet
from pruner.run.prune import load_run
from pruner.train.sparsity import BlockShape
from pruner.train.weights import save_weights
from tests.commands import prune_arguments
from tests.hasty import in_haste
from tests.toys import DEVICE, SPARSE_DEVICE, synthetic_table

INT8 = {"precision": "int8"}


@pytest.fixture
def table(workshop, tmp_path):
    network = Network.load(workshop / "small_resnet.json")
    synthetic_table(tmp_path / "table", network, device=DEVICE.model_copy(update=INT8))
    return tmp_path / "table"


def operators(path):
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def test_a_run_ends_quantised_and_is_judged_beside_all_others(
    workshop, table, tmp_path, pruner, capsys, monkeypatch
):
    scores = iter([0.5, 0.4])  # of files in INT8: as fine-tuned, and repaired
    monkeypatch.setattr("pruner.run.quantised.onnx_accuracy", lambda *_, **__: next(scores))
    out = tmp_path / "run"
    changes = {"method": "uniform", "calibration_images": 64, "repair_epochs": 1}
    assert pruner("prune", *prune_arguments(workshop, out, table=table, **changes)) == 0
    shown = capsys.readouterr().out
    assert "dense in INT8" in shown
    assert "fine-tuned, in FP32" in shown
    result = json.loads((out / "result.json").read_text())
    assert {"dense", "dense_int8", "pruned", "fine_tuned", "exported"} <= {*result["accuracy"]}
    assert result["accuracy"]["exported"] == pytest.approx(
        result["accuracy"]["fine_tuned"], abs=0.03
    )
    for name in ("dense.onnx", "model.onnx"):
        assert operators(out / name)["QuantizeLinear"] > 5, name
    for name in ("dense_fp32.onnx", "model_fp32.onnx"):
        assert "QuantizeLinear" not in operators(out / name), name
    found = json.loads((out / "quantised.json").read_text())
    assert (found["repaired"]["int8"], found["kept"]) == (0.4, "fine_tuned"), "it did not help"
    assert not (out / "repaired.safetensors").exists()
    assert pruner("evaluate", "--run", out, "--data", "digits", "--json") == 0
    judged = json.loads(capsys.readouterr().out)
    assert judged["onnx_accuracy"] == result["accuracy"]["exported"]


def test_a_comparison_in_int8_is_of_files_in_int8_members_too(
    workshop, table, tmp_path, pruner, capsys
):
    out, mine = tmp_path / "c", tmp_path / "mine.py"
    mine.write_text(
        "from pruner.models.resnet import CifarResNet\n"
        "def little():\n    return CifarResNet(1, (8, 8), colours=1)\n"
    )
    weights = tmp_path / "little.safetensors"
    save_weights(CifarResNet(1, (8, 8), colours=1), weights)
    changes = {"method": "uniform", "epochs": 0, "calibration_images": 32, "repair_epochs": 0}
    options = prune_arguments(
        workshop, out, table=table, member=f"{mine}:little={weights}", **changes
    )
    assert pruner("compare", *options, "--json") == 0
    run, member = json.loads(capsys.readouterr().out)["rows"]
    result = json.loads((out / run["folder"] / "result.json").read_text())
    assert run["accuracy"] == result["accuracy"]["exported"]
    assert run["dense_accuracy"] == result["accuracy"]["dense_int8"]
    assert "QuantizeLinear" in operators(out / member["folder"] / "model.onnx")
    assert 0 <= member["accuracy"] < 0.5, "it was never trained"
    assert pruner("export", "--run", out / run["folder"], "--out", tmp_path / "x.onnx") == 0
    assert "not in INT8" in capsys.readouterr().out


def test_what_int8_costs_too_much_is_repaired_and_the_repair_can_be_interrupted(
    workshop, table, tmp_path, pruner, monkeypatch
):
    scores = iter([0.5, 0.9, 0.5, 0.9])  # of files in INT8: as fine-tuned, repaired; again
    monkeypatch.setattr("pruner.run.quantised.onnx_accuracy", lambda *_, **__: next(scores))
    monkeypatch.setattr("pruner.train.finetune.SAVE_EVERY", 2)
    options = prune_arguments(
        workshop, tmp_path / "whole", table=table, method="uniform", repair_epochs=1, epochs=0,
        calibration_images=32,
    )  # fmt: skip
    assert pruner("prune", *options) == 0
    found = json.loads((tmp_path / "whole" / "quantised.json").read_text())
    assert found["kept"] == "repaired"
    assert found["repaired"]["int8"] == 0.9
    of_file = torch.nn.utils.parameters_to_vector(load_run(tmp_path / "whole").parameters())
    assert torch.isfinite(of_file).all()

    real = progress.Stages.__call__

    def interrupt(self, step, done, total, text):
        if step == "repair" and done == 6:
            raise KeyboardInterrupt
        real(self, step, done, total, text)

    options = [tmp_path / "cut" if word == tmp_path / "whole" else word for word in options]
    with monkeypatch.context() as patch:
        patch.setattr(progress.Stages, "__call__", interrupt)
        assert pruner("prune", *options) == 130
    scores = iter([0.5, 0.9])
    assert pruner("prune", *options) == 0
    pairs = [tmp_path / run / "repaired.safetensors" for run in ("whole", "cut")]
    assert pairs[0].read_bytes() == pairs[1].read_bytes()
    assert not (tmp_path / "cut" / "repair.pt").exists()


def test_weights_that_are_left_out_go_by_four_inputs_and_stay_0_in_int8(
    workshop, kernels, tmp_path, pruner
):
    network = Network.load(workshop / "small_resnet.json")
    device = SPARSE_DEVICE.model_copy(update=INT8)
    table, out, given = (tmp_path / name for name in ("table", "run", "given.json"))
    synthetic_table(table, network, lambda spec: 1e-6 + 1e-11 * spec.kept_macs, device=device)
    asked = Architecture(density=dict.fromkeys(network.sparse_layers, 0.5))
    asked.save(given)
    changes = {"architecture": given, "speedup": None, "episodes": None}
    assert pruner("prune", *prune_arguments(workshop, out, table=table, **changes)) == 0
    model = load_run(out)
    for name, mask in masks_of(model, asked, BlockShape(16, 4)).items():
        weight = model.get_submodule(name).weight.detach()
        assert float(mask.float().mean()) == pytest.approx(0.5, abs=0.02)
        assert (weight[~mask] == 0).all()
    found = operators(out / "model.onnx")
    assert found["QSparseConv"] == len(asked.density) + 1, "the first layer is dense"
    assert "Conv" not in found
    assert found["QuantizeLinear"] <= 2, "only at the ends"
    result = json.loads((out / "result.json").read_text())
    assert result["accuracy"]["exported"] == pytest.approx(
        result["accuracy"]["fine_tuned"], abs=0.03
    )


@pytest.mark.timed
def test_a_table_in_int8_is_measured_and_a_run_against_it_timed_beside_fp32(
    workshop, tmp_path, pruner, latprof, monkeypatch, capsys
):
    in_haste(monkeypatch)
    table, out = tmp_path / "table", tmp_path / "run"
    options = ["--levels", "2", "--samples", "4", "--precision", "int8", "--out", table]
    assert latprof("profile", "--network", workshop / "small_resnet.json", *options) == 0
    monkeypatch.setattr("pruner.run.journey.Journey.widest", 0.0)  # it was measured in haste
    changes = {"method": "random", "epochs": 0, "calibration_images": 32}
    assert pruner("prune", *prune_arguments(workshop, out, table=table, **changes)) == 0
    result = json.loads((out / "result.json").read_text())
    over = result["measured"]["over_fp32"]
    assert over["speedup_low"] <= over["speedup"] <= over["speedup_high"]
    assert "over dense in FP32" in capsys.readouterr().out


def test_what_only_int8_listens_to_is_refused_elsewhere(workshop, tmp_path, pruner, capsys):
    options = prune_arguments(workshop, tmp_path / "run", calibration="entropy")
    assert pruner("prune", *options) == 1
    assert "--calibration has no effect" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
