import pytest
import torch
import torch_pruning
from torch import nn

from lookup_tables.network import Network, network_names
from pruner import models
from pruner.errors import TraceError
from pruner.graph_reader import menu
from pruner.trace import trace
from tests.toys import Branches, tiny_resnet


class Gated(nn.Module):
    """A squeeze-and-excitation gate: its channels are coupled with what it multiplies."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.squeeze = nn.Conv2d(16, 4, 1)
        self.excite = nn.Conv2d(4, 16, 1)
        self.last = nn.Conv2d(16, 4, 1)

    def forward(self, x):
        x = self.first(x)
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(self.pool(x)))))
        return self.last(x * gate)


class DataDependent(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, x):
        x = self.conv(x)
        return x if x.sum() > 0 else -x


def by_name(network):
    return {layer.name: layer for layer in network.layers}


@pytest.mark.parametrize("name", network_names())
def test_the_shipped_network_files_are_what_tracing_gives(name):
    known = models.MODELS[name]
    assert trace(known.factory(), known.input_shape, name).network == Network.load(name)


def test_batch_norm_addition_and_activation_are_fused_into_the_convolution():
    layers = by_name(trace(tiny_resnet(), (1, 8, 8), "tiny").network)
    second = layers["layer1.0.conv2"]
    assert (second.residual, second.activation) == ("conv1", "relu")
    assert not any(layer.kind in ("add", "batch_norm") for layer in layers.values())


def test_channels_that_are_added_are_one_group_and_blocks_are_found():
    network = trace(tiny_resnet(), (1, 8, 8), "tiny").network
    layers = by_name(network)
    assert layers["conv1"].group == layers["layer1.0.conv2"].group == layers["layer1.1.conv2"].group
    assert [block.name for block in network.blocks] == ["layer1.0", "layer1.1", "layer2.1"]


def test_branches_stay_apart_and_meet_in_the_concatenation():
    network = trace(Branches(), (3, 8, 8), "branches").network
    layers = by_name(network)
    assert layers["depthwise"].kind == "depthwise"
    assert [layer.kind for layer in network.layers if layer.kind in ("concat", "upsample")] == [
        "upsample",
        "concat",
    ]
    assert network.geometry["merge"].in_form.factors == (("left", 1), ("right", 1))
    linear = next(layer for layer in network.layers if layer.kind == "linear")
    assert network.geometry[linear.name].in_form.factors == (("merge", 4),)


def test_a_gate_shares_the_group_of_what_it_multiplies():
    network = trace(Gated(), (3, 8, 8), "gated").network
    assert by_name(network)["excite"].group == by_name(network)["first"].group == "first"
    assert "squeeze" in network.group


def test_network_outputs_are_never_pruned():
    layers = by_name(trace(tiny_resnet(), (1, 8, 8), "tiny").network)
    assert layers["linear"].group is None


@pytest.mark.parametrize(
    ("factory", "shape"), [(tiny_resnet, (1, 8, 8)), (Branches, (3, 8, 8)), (Gated, (3, 8, 8))]
)
def test_coupled_channels_agree_with_an_independent_tracer(factory, shape):
    model = factory()
    traced = trace(model, shape, "toy")
    graph = torch_pruning.DependencyGraph().build_dependency(model, torch.randn(1, *shape))
    names = {module: name for name, module in model.named_modules()}
    for layer in traced.network.layers:
        if layer.group is None:
            continue
        module = model.get_submodule(layer.name)
        prune_out = torch_pruning.prune_conv_out_channels
        theirs = {
            names[dependency.target.module]
            for dependency, _ in graph.get_pruning_group(module, prune_out, idxs=[0])
            if dependency.handler in (prune_out, torch_pruning.prune_depthwise_conv_out_channels)
        }
        ours = {
            path
            for path, channels in traced.channels.items()
            if any(segment.group == layer.group for segment in channels.writes)
            and isinstance(model.get_submodule(path), nn.Conv2d)
        }
        assert ours == theirs


def test_a_model_that_depends_on_its_data_is_refused_naming_the_layer():
    with pytest.raises(TraceError, match="cannot trace DataDependent: after conv, forward"):
        trace(DataDependent(), (3, 8, 8), "m")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.ConvTranspose2d(3, 8, 3)), "layer 0: ConvTranspose2d is not supported"),
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.Softmax(dim=1)), "layer 1: Softmax is not supported"),
        (nn.Sequential(nn.Conv2d(3, 8, 3, dilation=2)), "layer 0: only convolutions with numeric"),
        (nn.Sequential(nn.Conv2d(5, 8, 3)), "cannot run the model on one 3×8×8 input"),
    ],
)
def test_what_cannot_be_traced_is_refused_naming_the_layer(model, message):
    with pytest.raises(TraceError, match=message):
        trace(model, (3, 8, 8), "m")


def test_a_layer_that_is_called_twice_is_refused():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x):
            return self.conv(self.conv(x))

    with pytest.raises(TraceError, match="layer conv is called twice"):
        trace(Twice(), (3, 8, 8), "m")


@pytest.mark.parametrize(
    ("width", "choices"),
    [
        (64, (8, 16, 24, 32, 40, 48, 56, 64)),
        (1024, (128, 256, 384, 512, 640, 768, 896, 1024)),
        (16, (8, 16)),
        (12, (2, 4, 6, 8, 10, 12)),
        (3, (1, 2, 3)),
        (100, (16, 32, 40, 56, 64, 80, 88, 100)),
    ],
)
def test_the_menu_has_up_to_eight_widths_in_steps_the_hardware_likes(width, choices):
    assert menu(width) == choices
