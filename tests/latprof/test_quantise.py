"""Networks in INT8 as they are profiled: the same nodes as of the runtime's own quantiser."""

from collections import Counter

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

from latprof.onnx.writer import build, leave_out, random_input
from latprof.runtimes.base import Usage
from latprof.runtimes.here import this_device
from lookup_tables.device import BYTES_TAP
from lookup_tables.model.latency_model import LatencyModel
from lookup_tables.network import Network
from lookup_tables.table.store import LatencyTable
from tests.hasty import in_haste


class OneImage(CalibrationDataReader):
    def __init__(self, network):
        self.left = [{"input": random_input(network)}]

    def get_next(self):
        return self.left.pop() if self.left else None


def nodes_run(path, tmp_path):
    """The operators that the runtime runs once it has optimised a file."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    graph = onnx.load(tmp_path / "optimised.onnx").graph
    return Counter(node.op_type for node in graph.node)


@pytest.mark.parametrize(
    "name", ["digits_resnet", "mobilenet_v1_32", "mobilenet_v2_32", "vgg16_32"]
)
def test_the_runtime_runs_the_same_operators_as_of_its_own_quantiser(name, tmp_path):
    network = Network.load(name)
    plain, theirs, ours = (tmp_path / f"{which}.onnx" for which in ("plain", "theirs", "ours"))
    onnx.save(build(network, network.dense), str(plain))
    onnx.save(build(network, network.dense, precision="int8"), str(ours))
    quantize_static(
        plain, theirs, OneImage(network), activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8, per_channel=True,
    )  # fmt: skip
    assert nodes_run(ours, tmp_path) == nodes_run(theirs, tmp_path)


def test_taps_of_neighbouring_inputs_are_left_out_together():
    weight = np.ones((20, 10, 3, 3), np.float32)
    leave_out(weight, 0.5, 16, np.random.default_rng(0), BYTES_TAP)
    for block in (weight[:16], weight[16:]):
        fours = np.split(block, [4, 8], axis=1)
        assert all(len({*np.unique(four[:, :, y, x])}) == 1
                   for four in fours for y in range(3) for x in range(3))  # fmt: skip
    assert np.mean(weight[:16, :8] != 0) == pytest.approx(0.5, abs=0.1)


def test_the_weights_of_a_sparse_network_keep_their_zeros():
    network = Network.load("digits_resnet")
    sparse = network.dense.model_copy(update={"density": dict.fromkeys(network.sparse_layers, 0.5)})
    model = build(network, sparse, precision="int8")
    values = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for name in network.sparse_layers:
        assert 0.4 < np.mean(values[f"{name}@weight/values"] != 0) < 0.6


@pytest.mark.parametrize("kernels", [[], ["--kernels", "block_sparse"]], ids=["plain", "sparse"])
def test_a_network_is_profiled_in_int8(kernels, workshop, tmp_path, latprof, monkeypatch, request):
    if kernels:
        request.getfixturevalue("kernels")
    in_haste(monkeypatch)
    out, network = tmp_path / "table", workshop / "small_resnet.json"
    asked = ["--network", network, "--precision", "int8", "--levels", "2", "--samples", "4"]
    assert latprof("profile", *asked, *kernels, "--out", out) == 0
    table = LatencyTable.open(out)
    assert table.device.precision == "int8"
    assert table.device.name.endswith("_1t_int8" + "_sparse16" * bool(kernels))
    assert "byte_products" in table.device.processor_detail
    model = LatencyModel(Network.load(network), table)
    assert bool(model.sparse_layers) == bool(kernels)
    halved = model.network.dense.model_copy(
        update={"density": dict.fromkeys(model.sparse_layers, 0.5)}
    )
    assert 0 < model.latency_s(halved) < 10 * model.dense_s


def test_a_quantised_file_is_timed_against_a_float_one(tmp_path, latprof, capsys):
    network = Network.load("digits_resnet")
    files = [tmp_path / f"{precision}.onnx" for precision in ("fp32", "int8")]
    for file in files:
        onnx.save(build(network, network.dense, precision=file.stem), str(file))
    assert latprof("compare", *files) in (0, 6)
    assert "×" in capsys.readouterr().out


def test_int8_kernels_have_one_width_of_blocks(kernels, latprof, capsys, workshop):
    asked = ["--precision", "int8", "--kernels", "block_sparse", "--block", "8"]
    assert latprof("profile", "--network", workshop / "small_resnet.json", *asked) == 3
    assert "--block 8: INT8 kernels have blocks of 16" in capsys.readouterr().err


def test_the_instructions_for_bytes_tell_processors_apart():
    fp32, int8 = (this_device("cpu", Usage(precision=p)) for p in ("fp32", "int8"))
    assert "byte_products" not in fp32.processor_detail
    assert {*fp32.differences(int8)} == {"precision", "processor_detail.byte_products"}
