import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lookup_tables.architecture import Architecture
from lookup_tables.errors import ArchitectureError
from pruner.criteria import CRITERIA
from pruner.graph.surgery import cut, keep_best, shrink
from pruner.graph.trace import trace
from pruner.models.resnet import BasicBlock
from tests.toys import Branches, tiny_resnet

TOYS = {"tiny": (tiny_resnet, (1, 8, 8)), "branches": (Branches, (3, 8, 8))}


def randomised(model):
    """BatchNorm statistics and scales as after training, so that mistakes show."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return model.eval()


def silence(traced, kept):
    """Make the channels that are cut output 0 in the full model, by weights alone."""
    model = traced.module
    for path, channels in traced.channels.items():
        module, start = model.get_submodule(path), 0
        for segment in channels.writes:
            if segment.group is not None:
                gone = torch.ones(segment.width, dtype=torch.bool)
                gone[kept[segment.group]] = False
                for tensor in (module.weight, module.bias):
                    if tensor is not None and tensor.shape[0] == start + segment.width:
                        tensor.data[start : start + segment.width][gone] = 0
                if isinstance(module, nn.BatchNorm2d):
                    module.running_mean[gone] = 0
            start += segment.width


@pytest.mark.parametrize("name", list(TOYS))
@given(data=st.data())
@settings(max_examples=10, deadline=None)
def test_the_cut_model_computes_what_the_full_one_does_with_silent_channels(name, data):
    factory, shape = TOYS[name]
    traced = trace(randomised(factory()), shape, name)
    widths = {g.name: data.draw(st.integers(1, g.width)) for g in traced.network.groups}
    architecture = Architecture(widths=widths)
    kept = keep_best(traced.network, architecture, CRITERIA["l1"].rank(traced))
    small = cut(traced, architecture, kept)
    silence(traced, kept)
    x = torch.randn(4, *shape)
    with torch.inference_mode():
        assert torch.allclose(small(x), traced.module(x), atol=1e-4)


def test_the_cut_model_has_the_parameters_of_its_architecture():
    traced = trace(tiny_resnet(), (1, 8, 8), "tiny")
    architecture = Architecture(widths={"conv1": 8, "layer2.1.conv1": 8}, removed=("layer1.1",))
    small = shrink(traced, architecture)
    shapes = {name: tuple(p.shape) for name, p in small.named_parameters()}
    assert shapes["conv1.weight"] == (8, 1, 3, 3)
    assert shapes["layer2.1.conv1.weight"] == (8, 24, 3, 3)
    assert shapes["layer2.1.conv2.weight"] == (24, 8, 3, 3)
    assert not any(name.startswith("layer1.1") for name in shapes)


@given(st.sets(st.sampled_from(["layer1.0", "layer1.1", "layer2.1"])))
@settings(max_examples=8, deadline=None)
def test_a_model_without_some_blocks_computes_as_if_they_were_identities(removed):
    model = randomised(tiny_resnet())
    traced = trace(model, (1, 8, 8), "tiny")
    kept = keep_best(traced.network, Architecture(), CRITERIA["l1"].rank(traced))
    small = cut(traced, Architecture(removed=tuple(removed)), kept)
    for name in removed:
        stage, index = name.split(".")
        getattr(model, stage)[int(index)] = nn.Identity()
    x = torch.randn(2, 1, 8, 8)
    with torch.inference_mode():
        assert torch.allclose(small(x), model(x), atol=1e-5)


def test_cutting_leaves_the_original_alone():
    traced = trace(tiny_resnet(), (1, 8, 8), "tiny")
    before = {name: tuple(p.shape) for name, p in traced.module.named_parameters()}
    shrink(traced, Architecture(widths={"conv1": 2}))
    assert {name: tuple(p.shape) for name, p in traced.module.named_parameters()} == before


def test_a_wrong_architecture_is_refused_before_anything_is_cut():
    traced = trace(tiny_resnet(), (1, 8, 8), "tiny")
    with pytest.raises(ArchitectureError, match="width 99 is outside"):
        shrink(traced, Architecture(widths={"conv1": 99}))


def test_l1_keeps_the_filters_with_the_largest_weights():
    model = tiny_resnet()
    with torch.no_grad():
        model.layer1[0].conv1.weight.mul_(torch.arange(1.0, 17.0).view(-1, 1, 1, 1))
        nn.init.constant_(model.layer1[0].conv1.weight[3], 9.0)
    traced = trace(model, (1, 8, 8), "tiny")
    kept = keep_best(
        traced.network, Architecture(widths={"layer1.0.conv1": 1}), CRITERIA["l1"].rank(traced)
    )
    assert kept["layer1.0.conv1"].tolist() == [3]


def test_batch_norm_ranking_keeps_the_filters_with_the_largest_scale():
    model = tiny_resnet()
    with torch.no_grad():
        model.layer1[0].bn1.weight.copy_(torch.linspace(0, 1, 16).flip(0))
    traced = trace(model, (1, 8, 8), "tiny")
    scores = CRITERIA["batch_norm"].rank(traced)
    kept = keep_best(traced.network, Architecture(widths={"layer1.0.conv1": 2}), scores)
    assert kept["layer1.0.conv1"].tolist() == [0, 1]


def test_every_layer_of_a_group_has_a_say():
    model = tiny_resnet()
    with torch.no_grad():
        for convolution in (model.conv1, model.layer1[0].conv2, model.layer1[1].conv2):
            nn.init.constant_(convolution.weight, 1.0)
        model.layer1[1].conv2.weight[5] = 100.0
    traced = trace(model, (1, 8, 8), "tiny")
    assert int(CRITERIA["l1"].rank(traced)["conv1"].argmax()) == 5


class Flat(nn.Module):
    """A residual block that a linear layer reads flattened, without a pool between them."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.block = BasicBlock(8, 8, 1)
        self.fc = nn.Linear(8 * 16, 10)

    def forward(self, x):
        return self.fc(torch.flatten(self.block(torch.relu(self.stem(x))), 1))


def test_a_block_whose_output_is_flattened_is_removed_before_the_flatten():
    model = randomised(Flat())
    traced = trace(model, (1, 4, 4), "flat")
    (block,) = traced.network.blocks
    architecture = Architecture(removed=(block.name,))
    kept = keep_best(traced.network, architecture, CRITERIA["l1"].rank(traced))
    small = cut(traced, architecture, kept)
    model.block = nn.Identity()
    x = torch.randn(2, 1, 4, 4)
    with torch.inference_mode():
        assert torch.allclose(small(x), model(x), atol=1e-5)


class Viewed(nn.Module):
    """Counts its features after the mean has left two dimensions."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3)
        self.fc = nn.Linear(8, 10)

    def forward(self, x):
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)).view(-1, 8))


def test_a_counted_reshape_follows_the_width():
    traced = trace(Viewed(), (1, 4, 4), "viewed")
    (group,) = traced.network.groups
    small = shrink(traced, Architecture(widths={group.name: 3}))
    assert small(torch.randn(2, 1, 4, 4)).shape == (2, 10)


class OwnConv(nn.Conv2d):
    """As libraries write them: another way to be made, the same computation."""

    def __init__(self, channels, width):
        super().__init__(channels, width, 3, padding=1)


def test_a_layer_of_a_users_own_class_is_cut_like_the_one_it_inherits_from():
    model = nn.Sequential(OwnConv(1, 8), nn.ReLU(), OwnConv(8, 4))
    traced = trace(model, (1, 4, 4), "own")
    (group,) = traced.network.groups
    small = shrink(traced, Architecture(widths={group.name: 3}))
    assert small.get_submodule("0").weight.shape == (3, 1, 3, 3)
    assert small(torch.randn(2, 1, 4, 4)).shape == (2, 4, 4, 4)
