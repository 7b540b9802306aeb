import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latprof.onnx.writer import build, random_input
from lookup_tables.architecture import Architecture
from lookup_tables.network import INPUT, Network
from pruner.graph.trace import trace
from tests.toys import Branches, tiny_network

NETWORKS = {
    "tiny": tiny_network(),
    "branches": trace(Branches(), (3, 8, 8), "branches").network,
}


def run(network, architecture, batch=1):
    model = build(network, architecture, batch)
    onnx.checker.check_model(model, full_check=True)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {INPUT: random_input(network, batch)})[0]


@pytest.mark.parametrize("name", list(NETWORKS))
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_any_architecture_runs_and_gives_finite_numbers(name, data):
    network = NETWORKS[name]
    widths = {g.name: data.draw(st.integers(1, g.width)) for g in network.groups}
    removed = tuple(b.name for b in network.blocks if data.draw(st.booleans()))
    output = run(network, Architecture(widths=widths, removed=removed))
    assert output.shape == (1, 10)
    assert np.isfinite(output).all()
    assert np.abs(output).max() > 0


def test_a_batch_runs_through_at_once():
    assert run(NETWORKS["tiny"], Architecture(), batch=3).shape == (3, 10)


def test_weights_have_the_shapes_of_the_architecture():
    network = Network.load("resnet20")
    widths = {g.name: g.choices[0] for g in network.groups}
    model = build(network, Architecture(widths=widths))
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    assert shapes["layer3.2.conv2@weight"] == (8, 8, 3, 3)
    assert shapes["linear@weight"] == (10, 8)


def test_activations_keep_their_scale_through_many_layers():
    output = run(Network.load("resnet56"), Architecture())
    assert 1e-3 < np.abs(output).max() < 1e6
