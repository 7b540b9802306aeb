"""Networks whose layers leave out weights, through the commands."""

import json

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from safetensors.torch import load_file

from latprof import DISTURBED_EXIT
from lookup_tables.architecture import Architecture
from lookup_tables.network import Network
from lookup_tables.table.store import LatencyTable
from pruner import cli as pruner_cli
from tests.commands import command, prune_arguments


def test_a_table_of_sparse_layers_prices_densities(
    workshop, sparse_table, tmp_path, latprof, capsys
):
    table = LatencyTable.open(sparse_table)
    network = Network.load(workshop / "small_resnet.json")
    assert table.device.block == 16
    assert table.device.provider_options["kernels"] == "block_sparse"
    asked = ["--table", sparse_table, "--network", "small_resnet", "--json"]
    found = []
    for share in (1.0, 0.2):
        density = dict.fromkeys(network.sparse_layers, share)
        Architecture(density=density).save(tmp_path / "architecture.json")
        capsys.readouterr()
        assert latprof("predict", *asked, "--architecture", tmp_path / "architecture.json") == 0
        found.append(json.loads(capsys.readouterr().out))
    dense, sparse = found
    assert sparse["latency_ms"] < 0.7 * dense["latency_ms"]
    by_name = {layer["name"]: layer for layer in sparse["layers"]}
    assert by_name[network.sparse_layers[0]]["layer"]["density"] == pytest.approx(0.2)


def test_a_table_of_sparse_layers_is_not_transferred(sparse_table, tmp_path, latprof, capsys):
    options = ["--from", sparse_table, "--network", "small_resnet", "--out", tmp_path / "t"]
    assert latprof("transfer", *options, "--threads", "1") == 1
    assert "cannot be transferred" in capsys.readouterr().err


def test_a_table_of_plain_layers_refuses_densities(workshop, tmp_path, latprof, capsys):
    network = Network.load(workshop / "small_resnet.json")
    Architecture(density={network.sparse_layers[0]: 0.5}).save(tmp_path / "a.json")
    asked = ["--table", workshop / "table", "--network", "small_resnet"]
    assert latprof("predict", *asked, "--architecture", tmp_path / "a.json") == 1
    said = capsys.readouterr().err
    assert "holds no sparse kernels" in said
    assert "--kernels block_sparse" in said


def test_a_file_with_zeros_is_converted_compared_and_told_apart(
    workshop, sparse_table, tmp_path, latprof, capsys
):
    network = Network.load(workshop / "small_resnet.json")
    Architecture(density=dict.fromkeys(network.sparse_layers, 0.25)).save(tmp_path / "a.json")
    dense, zeros, sparse = (tmp_path / f"{name}.onnx" for name in ("dense", "zeros", "sparse"))
    Architecture().save(tmp_path / "whole.json")
    export = ["export", "--network", workshop / "small_resnet.json"]
    assert latprof(*export, "--architecture", tmp_path / "whole.json", "--out", dense) == 0
    assert latprof(*export, "--architecture", tmp_path / "a.json", "--out", zeros) == 0
    capsys.readouterr()
    assert latprof("kernels", "convert", zeros, "--out", sparse, "--json") == 0
    told = json.loads(capsys.readouterr().out)["densities"]
    kept = [told[f"{name}@conv"] for name in network.sparse_layers]
    assert kept == pytest.approx([0.25] * len(kept), abs=0.02)
    assert latprof("compare", dense, sparse, "--json") in (0, DISTURBED_EXIT)


def test_kernels_tell_of_themselves_and_are_checked(latprof, capsys, kernels):
    assert latprof("kernels", "info", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["library"] == str(kernels)
    assert told["vector_bytes"] in (16, 32, 64)
    assert latprof("kernels", "check", "--layers", "20", "--threads", "2") == 0
    said = capsys.readouterr().out
    assert "20 layers agree" in said
    assert "20 layers in INT8 agree to the last bit" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["convert", "none.onnx", "--out", "x.onnx"], "no such ONNX file"),
        (["convert", "text.onnx", "--out", "x.onnx"], "not a readable ONNX file"),
        (["convert", "relu.onnx", "--out", "x.onnx"], "no convolution of this model"),
        (["convert", "relu.onnx", "--out", "x.onnx", "--block", "5"], "expected one of 16, 8, 4"),
        (["build", "--march", "x86-64-v3"], "--march for another processor needs --out"),
        (["bench", "--density", "0"], "expected shares of the weights"),
        (["bench", "--channels", "3"], "expected one of 16, 32, 64"),
    ],
)
def test_what_kernels_cannot_do_is_one_line(
    arguments, said, latprof, tmp_path, monkeypatch, capsys, kernels
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.onnx").write_text("no model at all")
    node = onnx.helper.make_node("Relu", ["a"], ["b"])
    ends = [onnx.helper.make_tensor_value_info(n, 1, [1, 3, 4, 4]) for n in "ab"]
    graph = onnx.helper.make_graph([node], "relu", ends[:1], ends[1:])
    onnx.save(onnx.helper.make_model(graph), "relu.onnx")
    assert latprof("kernels", *arguments) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "x.onnx").exists()


def test_without_a_compiler_a_sparse_profile_says_what_is_missing(
    workshop, tmp_path, latprof, monkeypatch, capsys
):
    monkeypatch.setenv("LATPROF_KERNELS", str(tmp_path / "none.so"))
    options = ["--network", workshop / "small_resnet.json", "--out", tmp_path / "t"]
    assert latprof("profile", *options, "--kernels", "block_sparse") == 3
    assert "sparse layers cannot be measured here" in capsys.readouterr().err
    assert latprof("profile", *options, "--kernels", "other") == 1
    assert "expected block_sparse" in capsys.readouterr().err
    assert latprof("profile", *options, "--kernels", "block_sparse", "--block", "5") == 1
    assert "--block 5: expected one of 16, 8, 4" in capsys.readouterr().err
    assert latprof("profile", *options, "--block", "8") == 1
    assert "has no effect without --kernels" in capsys.readouterr().err


def test_densities_drop_whole_taps_of_blocks_of_the_asked_size(workshop, tmp_path, latprof):
    network = Network.load(workshop / "small_resnet.json")
    name = network.sparse_layers[0]
    Architecture(density={name: 0.3}).save(tmp_path / "a.json")
    out = tmp_path / "a.onnx"
    export = ["export", "--network", workshop / "small_resnet.json", "--block", "8"]
    assert latprof(*export, "--architecture", tmp_path / "a.json", "--out", out) == 0
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(out).graph.initializer}
    weight = weights[f"{name}@weight"]
    kept = (weight.reshape(-1, 8, weight[0].size) != 0).sum(axis=1)
    assert set(np.unique(kept)) == {0, 8}
    assert (kept > 0).mean() == pytest.approx(0.3, abs=0.01)


# -- pruning -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sparse_run(workshop, sparse_table, kernels, tmp_path_factory):
    """A run whose search may only leave out weights."""
    out = tmp_path_factory.mktemp("runs") / "run"
    options = prune_arguments(workshop, out, table=sparse_table, speedup=1.5, epochs=2)
    patch = pytest.MonkeyPatch()
    # A table that was measured in haste promises too little to prune by.
    patch.setattr("pruner.run.journey.Journey.widest", 0.0)
    made = command(patch, pruner_cli.main, "prune", *options, "--density", "--no-widths")
    patch.undo()
    assert made == 0
    return out


def test_a_run_leaves_out_weights_and_gives_the_network_twice(sparse_run, kernels):
    architecture = Architecture.load(sparse_run / "architecture.json")
    assert architecture.density
    assert min(architecture.density.values()) < 1
    result = json.loads((sparse_run / "result.json").read_text())
    assert result["predicted"]["speedup"] >= 1.49
    assert result["accuracy"]["exported"] == result["accuracy"]["fine_tuned"]
    assert result["export_difference"] < 1e-4
    x = np.random.default_rng(0).standard_normal((1, 1, 8, 8), dtype=np.float32)
    answers = []
    for name in ("model_dense.onnx", "model.onnx"):
        options = ort.SessionOptions()
        options.register_custom_ops_library(str(kernels))
        session = ort.InferenceSession(sparse_run / name, options)
        answers.append(session.run(None, {"input": x})[0])
    np.testing.assert_allclose(*answers, rtol=1e-3, atol=1e-4)


def test_what_was_left_out_is_still_0_after_fine_tuning(sparse_run):
    weights = load_file(sparse_run / "model.safetensors")
    for name, share in Architecture.load(sparse_run / "architecture.json").density.items():
        weight = weights[f"{name}.weight"]
        kept = (weight.flatten(1) != 0).reshape(-1, 16, weight[0].numel()).any(dim=1)
        assert float(kept.float().mean()) == pytest.approx(share, abs=0.01)


def test_a_sparse_run_is_judged_again_and_continued_as_it_is(
    workshop, sparse_run, sparse_table, pruner, capsys
):
    capsys.readouterr()
    assert pruner("evaluate", "--run", sparse_run, "--data", "digits", "--json") == 0
    judged = json.loads(capsys.readouterr().out)
    result = json.loads((sparse_run / "result.json").read_text())
    assert judged["accuracy"] == pytest.approx(result["accuracy"]["fine_tuned"])
    before = (sparse_run / "model.onnx").read_bytes()
    options = prune_arguments(workshop, sparse_run, table=sparse_table, speedup=1.5, epochs=2)
    assert pruner("prune", *options, "--density", "--no-widths") == 0
    assert (sparse_run / "model.onnx").read_bytes() == before


def test_the_report_shows_every_layers_density(sparse_run):
    page = (sparse_run / "report.html").read_text()
    architecture = Architecture.load(sparse_run / "architecture.json")
    name, share = next(iter(architecture.density.items()))
    assert name in page
    assert f"{share:.0%}" in page


def test_densities_without_a_table_of_sparse_layers_are_refused(workshop, tmp_path, pruner, capsys):
    assert pruner("prune", *prune_arguments(workshop, tmp_path / "r"), "--density") == 1
    said = capsys.readouterr().err
    assert "holds no sparse layers" in said
    assert "--kernels block_sparse" in said
    assert not (tmp_path / "r").exists()


def test_an_explanation_says_where_leaving_out_weights_pays(
    workshop, sparse_table, tmp_path, latprof, capsys
):
    network = Network.load(workshop / "small_resnet.json")
    Architecture(density=dict.fromkeys(network.sparse_layers, 0.2)).save(tmp_path / "a.json")
    asked = ["--table", sparse_table, "--network", "small_resnet"]
    capsys.readouterr()
    assert latprof("explain", *asked, "--architecture", tmp_path / "a.json") == 0
    said = capsys.readouterr().out
    assert f"of {len(network.sparse_layers)} layers" in said
    assert "leaving out weights saves time in" in said
