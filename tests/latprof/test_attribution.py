"""Every layer of a network gets its time, whatever the runtime makes of it."""

import pytest
import torch
from torch import nn

from latprof import UnmeasuredLayer
from latprof.onnx.attribution import TOKEN_S, attribute
from latprof.profile.bench import Bench
from latprof.runtimes.here import this_device
from latprof.runtimes.ort_cpu import NodeTime
from lookup_tables.layer import WEIGHTED
from pruner.graph.trace import trace
from tests.toys import Branches, Gated, Merging, chain

LAYERS = chain(8, 8, 8).layer_specs(chain(8, 8, 8).dense)


def nodes(*pairs):
    return [NodeTime(name, op, seconds) for name, op, seconds in pairs]


class LateAdd(nn.Module):
    """The runtime may add into the first convolution, though the second runs last."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 16, 3, padding=1)
        self.b = nn.Conv2d(3, 16, 3, padding=1)

    def forward(self, x):
        return self.a(x) + torch.relu(self.b(x))


def plain(*layers):
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), *layers)


class Scaled(nn.Module):
    """The runtime multiplies weights by the constant, and calls what it made by the product."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 8, 1)
        self.by = nn.Parameter(torch.linspace(1, 2, 16).view(16, 1, 1))

    def forward(self, x):
        return self.b(self.a(x) * self.by)


REAL = {
    "a scale behind": Scaled(),
    "a convolution last": plain(nn.ReLU(), nn.Conv2d(16, 8, 1)),
    "a global pool last": plain(nn.ReLU(), nn.AdaptiveAvgPool2d(1)),
    "two fused linear layers": plain(
        nn.Flatten(), nn.Linear(1024, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU()
    ),
    "hard swish": plain(nn.Hardswish(), nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16), nn.SiLU()),
    "a late addition": LateAdd(),
    "branches": Branches(),
    "a gate": Gated(),
    "many branches": Merging(3),
}


@pytest.mark.parametrize("name", list(REAL))
def test_every_layer_with_weights_is_timed_in_the_real_runtime(name):
    network = trace(REAL[name], (3, 8, 8), "real").network
    sample = Bench(network, this_device(), target_s=0.001).measure(network.dense)
    specs = network.layer_specs(network.dense)
    assert [entry.layer for entry in sample.layers] == [spec for _, spec in specs]
    for entry in sample.layers:
        assert entry.seconds > 0
        if entry.layer.kind in WEIGHTED:
            assert entry.nodes > 0
            assert entry.seconds > TOKEN_S


def test_layout_changes_go_to_the_layer_that_wrote_the_tensor():
    found = attribute(
        nodes(
            ("ReorderInput_1", "ReorderInput", 1.0),  # of the network's input: for its reader
            ("conv0@activation_nchwc", "Conv", 2.0),
            ("ReorderOutput_7", "ReorderOutput", 4.0),  # of what conv0 wrote
            ("fused conv1@conv", "FusedConv", 8.0),
            ("ReorderInput_2", "ReorderInput", 16.0),  # of what conv1 wrote
            ("conv2@conv", "Conv", 32.0),
        ),
        LAYERS,
    )
    assert [entry.seconds for entry in found] == [7.0, 24.0, 32.0]
    assert [entry.nodes for entry in found] == [3, 2, 1]


def test_a_layer_whose_name_ends_another_ones_is_not_mistaken_for_it():
    (one, spec), (two, _), _ = LAYERS
    layers = [(one.model_copy(update={"name": "7"}), spec)]
    layers += [(two.model_copy(update={"name": "17"}), spec)]
    found = attribute(nodes(("7@conv", "Conv", 1.0), ("fused 17@conv", "Conv", 2.0)), layers)
    assert [entry.seconds for entry in found] == [1.0, 2.0]


def test_a_layer_with_weights_but_without_a_node_is_an_error_not_a_zero():
    with pytest.raises(UnmeasuredLayer, match=r"layer conv1 .*: no node of the runtime carries"):
        attribute(nodes(("conv0@conv", "Conv", 1.0), ("conv2@conv", "Conv", 1.0)), LAYERS)
