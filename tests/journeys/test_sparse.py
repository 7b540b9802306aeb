"""Networks whose layers leave out weights, through the commands."""

import json

import numpy as np
import onnx
import pytest

from latprof import DISTURBED_EXIT
from lookup_tables.architecture import Architecture
from lookup_tables.network import Network
from lookup_tables.table.store import LatencyTable


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
    assert "20 layers agree" in capsys.readouterr().out


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
