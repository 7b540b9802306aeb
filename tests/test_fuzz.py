"""Readers of files from outside: whatever a file holds is read, or refused in our own words."""

import json
from contextlib import suppress

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from latprof.onnx.reader import read_onnx
from latprof.onnx.writer import build
from lookup_tables.architecture import Architecture
from lookup_tables.device import Device
from lookup_tables.errors import ContractError
from lookup_tables.network import Network
from lookup_tables.table.store import LatencyTable
from tests.toys import DEVICE, chain, synthetic_table, tiny_network

NETWORK = tiny_network()
QUICK = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
HARM = st.tuples(
    st.sampled_from(["flip", "cut", "insert", "repeat"]), st.floats(0, 1), st.binary(max_size=8)
)


def harmed(data: bytes, harm) -> bytes:
    """One thing done to a file at some place."""
    way, where, some = harm
    at = int(where * max(len(data) - 1, 0))
    if way == "flip" and data:
        return data[:at] + bytes([data[at] ^ (1 << len(some) % 8)]) + data[at + 1 :]
    if way == "cut":
        return data[:at]
    if way == "insert":
        return data[:at] + some + data[at:]
    return data[:at] + data[at : at + 40] + data[at:]


def read_or_refused(read) -> None:
    with suppress(ContractError):
        read()


@QUICK
@given(st.lists(HARM, min_size=1, max_size=3))
def test_a_harmed_onnx_file_is_read_or_refused(tmp_path, harms):
    data = build(NETWORK, NETWORK.dense).SerializeToString()
    for harm in harms:
        data = harmed(data, harm)
    (tmp_path / "net.onnx").write_bytes(data)
    read_or_refused(lambda: read_onnx(tmp_path / "net.onnx"))


@QUICK
@given(st.lists(HARM, min_size=1, max_size=3))
def test_a_harmed_network_file_is_read_or_refused(tmp_path, harms):
    NETWORK.save(tmp_path / "net.json")
    data = (tmp_path / "net.json").read_bytes()
    for harm in harms:
        data = harmed(data, harm)
    (tmp_path / "net.json").write_bytes(data)
    read_or_refused(lambda: Network.load(tmp_path / "net.json"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


@QUICK
@given(field=st.sampled_from(["name", "input_shape", "groups", "blocks", "layers"]), value=JSON)
def test_a_network_file_with_anything_in_a_field_is_read_or_refused(tmp_path, field, value):
    data = json.loads(NETWORK.model_dump_json()) | {field: value}
    (tmp_path / "net.json").write_text(json.dumps(data))
    read_or_refused(lambda: Network.load(tmp_path / "net.json"))


@QUICK
@given(value=JSON)
def test_an_architecture_file_with_anything_in_it_is_read_or_refused(tmp_path, value):
    (tmp_path / "a.json").write_text(json.dumps(value))
    read_or_refused(lambda: NETWORK.check(Architecture.load(tmp_path / "a.json")))


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    table = synthetic_table(tmp_path_factory.mktemp("t") / "t", chain(8, 8, 8), levels=2, samples=2)
    return table.path("chain").read_bytes()


@QUICK
@given(harms=st.lists(HARM, min_size=1, max_size=3))
def test_harmed_rows_are_read_or_refused(tmp_path, rows, harms):
    for harm in harms:
        rows = harmed(rows, harm)
    table = LatencyTable.create(tmp_path / "t", DEVICE)
    table.path("chain").write_bytes(rows)
    read_or_refused(lambda: LatencyTable.open(table.folder).rows("chain"))


@QUICK
@given(harms=st.lists(HARM, min_size=1, max_size=2))
def test_a_harmed_identity_is_read_or_refused(tmp_path, harms):
    data = DEVICE.model_dump_json().encode()
    for harm in harms:
        data = harmed(data, harm)
    (tmp_path / "device.json").write_bytes(data)
    read_or_refused(lambda: Device.load(tmp_path / "device.json"))


@QUICK
@given(
    shape=st.lists(st.integers(0, 9), max_size=5),
    kernel=st.lists(st.integers(0, 5), min_size=1, max_size=3),
    group=st.integers(0, 4),
)
def test_an_onnx_convolution_of_any_shape_is_read_or_refused(tmp_path, shape, kernel, group):
    weight = np.zeros((4, 3, *kernel), np.float32)
    node = onnx.helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=kernel, group=group)
    graph = onnx.helper.make_graph(
        [node], "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(weight, "w")],
    )  # fmt: skip
    path = tmp_path / "conv.onnx"
    path.write_bytes(onnx.helper.make_model(graph).SerializeToString())
    read_or_refused(lambda: read_onnx(path))
