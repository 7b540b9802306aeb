"""Every supported operator: traced, cut, and profiled as what it is.

A network that is cut must answer as its parent that does not hear the other channels.
"""

import copy
import os

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from benchmarks.others import PartialDetector, UNet
from latprof.onnx.reader import read_onnx
from latprof.onnx.writer import build
from lookup_tables.architecture import Architecture
from lookup_tables.network import INPUT
from pruner import TraceError
from pruner.graph import check
from pruner.graph.check import cut_to, largest_difference, random_channels
from pruner.graph.compensation import Reconstruction
from pruner.graph.surgery import load_shrunk
from pruner.graph.trace import trace
from pruner.train.export import export_onnx
from pruner.train.weights import save_weights

SHAPE = (3, 16, 16)
EXAMPLES = int(os.environ.get("EXAMPLES", "5"))  # `make fuzz` has more


class Between(nn.Module):
    """A stem of 8 channels, some operation, and a convolution with BatchNorm that reads it."""

    def __init__(self, function, reads=8, **modules):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.function = function
        for name, module in modules.items():
            setattr(self, name, module)
        self.last = nn.Conv2d(reads, 12, 3, padding=1)
        self.head = nn.Conv2d(12, 5, 1)

    def forward(self, x):
        x = self.function(self, torch.relu(self.norm(self.stem(x))))
        return self.head(torch.relu(self.last(x)))


def shuffled(x, groups=2):
    images, channels, height, width = x.shape
    x = x.view(images, groups, channels // groups, height, width).transpose(1, 2)
    return x.contiguous().view(images, -1, height, width)


def gated(m, x):
    gate = F.adaptive_avg_pool2d(x, 1).view(x.size(0), -1)
    gate = torch.sigmoid(m.up(F.relu(m.down(gate))))
    return x * gate.view(x.size(0), -1, 1, 1).expand_as(x)


def channels_last(m, x):
    y = m.first(m.ln(x.permute(0, 2, 3, 1)))
    return x + (m.second(F.gelu(y)) * m.scale).permute(0, 3, 1, 2)


def padded_shortcut(m, x):
    return m.a(x) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 4))


def split(m, x):
    a, b = x.chunk(2, 1)
    return torch.cat([b, m.a(a)], 1)


PARAMETER = nn.Parameter(torch.linspace(0.5, 2, 8).view(8, 1, 1))

OPERATORS = {  # name → (what is between, channels it hands on, its modules)
    "gelu": (lambda m, x: F.gelu(m.a(x)), 8, {"a": nn.Conv2d(8, 8, 1)}),
    "mish": (lambda m, x: F.mish(m.a(x)), 8, {"a": nn.Conv2d(8, 8, 1)}),
    "elu": (lambda m, x: F.elu(m.a(x)), 8, {"a": nn.Conv2d(8, 8, 1)}),
    "tanh": (lambda m, x: torch.tanh(m.a(x)), 8, {"a": nn.Conv2d(8, 8, 1)}),
    "prelu": (lambda m, x: m.act(m.a(x)), 8, {"a": nn.Conv2d(8, 8, 1), "act": nn.PReLU(8)}),
    "one slope": (lambda m, x: m.act(m.a(x)), 8, {"a": nn.Conv2d(8, 8, 1), "act": nn.PReLU()}),
    "hand-written hard swish": (lambda m, x: x * F.hardtanh(x + 3, 0, 6) / 6, 8, {}),
    "scale and shift": (lambda m, x: 0.5 * x / 3 - 1, 8, {}),
    "channel scale": (lambda m, x: m.by * x + m.by, 8, {"by": PARAMETER}),
    "dilated": (lambda m, x: m.a(x), 8, {"a": nn.Conv2d(8, 8, 3, padding=2, dilation=2)}),
    "padding same": (lambda m, x: m.a(x), 8, {"a": nn.Conv2d(8, 8, 3, padding="same")}),
    "even and same": (lambda m, x: m.a(x), 8, {"a": nn.Conv2d(8, 8, 2, padding="same")}),
    "zero pad": (lambda m, x: m.a(m.pad(x)), 8, {
        "pad": nn.ZeroPad2d((0, 1, 0, 1)), "a": nn.Conv2d(8, 8, 3, stride=2),
    }),
    "ceil": (lambda m, x: F.max_pool2d(x, 3, 2, ceil_mode=True), 8, {}),
    "idle ceil": (lambda m, x: F.avg_pool2d(x, 2, 2, ceil_mode=True), 8, {}),
    "dilated pool": (lambda m, x: F.max_pool2d(x, 3, 1, 1, dilation=2), 8, {}),
    "pool of its size": (lambda m, x: x * F.avg_pool2d(x, x.size(3)), 8, {}),
    "adaptive": (lambda m, x: F.adaptive_avg_pool2d(x, (4, 8)), 8, {}),
    "mean twice": (lambda m, x: x * x.mean(3, keepdim=True).mean(2, keepdim=True), 8, {}),
    "bilinear": (lambda m, x: F.interpolate(x, scale_factor=2, mode="bilinear"), 8, {}),
    "to a size": (lambda m, x: x + F.interpolate(m.a(x), size=x.shape[2:]), 8, {
        "a": nn.Conv2d(8, 8, 3, stride=2, padding=1),
    }),
    "transposed": (lambda m, x: m.a(x), 6, {
        "a": nn.ConvTranspose2d(8, 6, 3, 2, 1, output_padding=1),
    }),
    "pixel shuffle": (lambda m, x: F.pixel_shuffle(x, 2), 2, {}),
    "group norm": (lambda m, x: m.gn(m.a(x)), 8, {
        "gn": nn.GroupNorm(2, 8), "a": nn.Conv2d(8, 8, 1),
    }),
    "channels last": (channels_last, 8, {
        "ln": nn.LayerNorm(8), "first": nn.Linear(8, 16), "second": nn.Linear(16, 8),
        "scale": nn.Parameter(torch.linspace(0.1, 1, 8)),
    }),
    "squeeze and excitation": (gated, 8, {"down": nn.Linear(8, 4), "up": nn.Linear(4, 8)}),
    "split": (split, 8, {"a": nn.Conv2d(4, 4, 3, padding=1)}),
    "slice": (lambda m, x: torch.cat([x[:, 4:], m.a(x[:, :4])], 1), 8, {"a": nn.Conv2d(4, 4, 1)}),
    "shuffle": (lambda m, x: shuffled(x), 8, {}),
    "shuffle as a module": (lambda m, x: m.a(x), 8, {"a": nn.ChannelShuffle(4)}),
    "padded shortcut": (padded_shortcut, 14, {"a": nn.Conv2d(8, 14, 3, stride=2, padding=1)}),
    "one for every place": (lambda m, x: x * torch.sigmoid(m.a(x)), 8, {"a": nn.Conv2d(8, 1, 1)}),
    "sum over a channel": (lambda m, x: x + m.a(x.mean((2, 3), True)), 8, {
        "a": nn.Conv2d(8, 8, 1),
    }),
    "linear with BatchNorm": (lambda m, x: x * m.bn(m.a(x.mean((2, 3))))[:, :, None, None], 8, {
        "a": nn.Linear(8, 8), "bn": nn.BatchNorm1d(8),
    }),
}  # fmt: skip


def model_of(name):
    function, reads, modules = OPERATORS[name]
    torch.manual_seed(0)
    return settled(Between(function, reads, **copy.deepcopy(modules)))


def settled(model):
    """With BatchNorms that have seen something."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
    return model.eval()


def assert_cut_is_deaf(model, shape=SHAPE, seed=0):
    """Returns the trace."""
    traced, x = trace(model, shape, "m"), torch.randn(3, *shape)
    torch.testing.assert_close(traced.module(x), model(x), rtol=1e-5, atol=1e-5)
    kept = random_channels(traced.network, seed)
    assert largest_difference(traced, kept, x) < 1e-4
    architecture = Architecture(widths={name: len(stay) for name, stay in kept.items()})
    assert_profiled(traced.network, architecture, cut_to(traced, kept)(x[:1]))
    return traced


def assert_profiled(network, architecture, answer):
    """What the profiler would run has the cut network's shape."""
    content = build(network, architecture).SerializeToString()
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    (made,) = session.run(None, {"input": np.zeros((1, *network.input_shape), np.float32)})
    assert made.shape == answer.shape
    assert np.isfinite(made).all()


@pytest.mark.parametrize("name", OPERATORS)
def test_a_network_with_an_operator_is_cut_as_its_deaf_parent(name):
    traced = assert_cut_is_deaf(model_of(name))
    assert "last" in traced.network.group


def shared_head(m, x):
    fine = m.shared(F.relu(m.a(x)))
    coarse = m.shared(F.max_pool2d(F.relu(m.b(x)), 2))
    return F.relu(m.after(fine)) + F.interpolate(F.relu(m.after(coarse)), scale_factor=2)


TIED = {
    "head of two scales": (shared_head, 10, {
        "a": nn.Conv2d(8, 8, 1), "b": nn.Conv2d(8, 8, 1), "shared": nn.Conv2d(8, 10, 3, padding=1),
        "after": nn.BatchNorm2d(10),
    }),
    "again on its own": (lambda m, x: m.a(F.relu(m.a(x))), 8, {"a": nn.Conv2d(8, 8, 1)}),
    "linear": (lambda m, x: x * m.a(F.relu(m.a(x.mean((2, 3)))))[:, :, None, None], 8, {
        "a": nn.Linear(8, 8),
    }),
    "depthwise": (lambda m, x: m.a(F.relu(m.a(x))), 8, {
        "a": nn.Conv2d(8, 8, 3, padding=1, groups=8),
    }),
    "on others": (lambda m, x: m.a(x) + m.a(torch.cat([m.b(x), m.c(x)], 1)), 8, {
        "a": nn.Conv2d(8, 8, 1), "b": nn.Conv2d(8, 2, 1), "c": nn.Conv2d(8, 6, 1),
    }),
    "one slope, again": (lambda m, x: m.act(m.act(F.max_pool2d(x, 2)) + 1), 8, {
        "act": nn.PReLU(),
    }),
}  # fmt: skip


@pytest.mark.parametrize("name", TIED)
def test_a_layer_that_is_called_again_is_cut_alike_at_all_its_calls(name, tmp_path):
    function, reads, modules = TIED[name]
    torch.manual_seed(0)
    traced = assert_cut_is_deaf(settled(Between(function, reads, **copy.deepcopy(modules))))
    assert traced.tied or name == "one slope, again"
    assert ("shared" in traced.network.group) == (name == "head of two scales")
    assert "on others" not in name or "a is called again on others" in {*traced.kept.values()}
    # Saved and read, it is one module still.
    kept = random_channels(traced.network, 0)
    small = cut_to(traced, kept)
    save_weights(small, tmp_path / "small.safetensors")
    architecture = Architecture(widths={n: len(stay) for n, stay in kept.items()})
    again = load_shrunk(traced, architecture, tmp_path / "small.safetensors")
    x = torch.randn(1, *SHAPE)
    torch.testing.assert_close(again(x), small(x))
    assert len([*again.parameters()]) == len([*small.parameters()])


class Noise:
    """Images enough to refit by."""

    def __len__(self):
        return 64

    def batch(self, indices, seed=None):
        x = torch.randn(64, *SHAPE, generator=torch.Generator().manual_seed(0))
        return x[indices], torch.zeros(len(indices), dtype=torch.long)


def test_weights_of_a_layer_that_is_called_again_are_refitted_to_what_all_calls_read():
    function, reads, modules = TIED["head of two scales"]
    torch.manual_seed(0)
    traced = trace(settled(Between(function, reads, **copy.deepcopy(modules))), SHAPE, "m")
    images = Noise()
    kept = random_channels(traced.network, 0)
    refitted = Reconstruction(traced, images).refit(kept)
    x, _ = images.batch(torch.arange(64))
    wanted = traced.module(x)
    off = {
        name: float((cut_to(one, kept)(x) - wanted).square().mean())
        for name, one in {"as it was": traced, "refitted": refitted}.items()
    }
    assert off["refitted"] < off["as it was"]


def structure(network):
    """A network without its names: layers by number, groups by their first layer's."""
    numbers = {name: i for i, name in enumerate([INPUT, *(x.name for x in network.layers)])}
    groups = {}
    return [
        layer.model_dump(exclude={"name"})
        | {
            "inputs": [numbers[name] for name in layer.inputs],
            "residual": numbers.get(layer.residual),
            "group": groups.setdefault(layer.group, len(groups)) if layer.group else None,
        }
        for layer in network.layers
    ]


def assert_read_back(network, folder):
    """What the profiler writes is the same network to whoever has the ONNX file alone."""
    onnx.save(build(network, network.dense), str(folder / "net.onnx"))
    assert structure(read_onnx(folder / "net.onnx")) == structure(network)


@pytest.mark.parametrize("name", OPERATORS)
def test_a_network_with_an_operator_is_the_same_when_it_is_read_from_onnx(name, tmp_path):
    assert_read_back(trace(model_of(name), SHAPE, "m").network, tmp_path)


def test_a_parameter_that_is_computed_with_learns_and_is_copied_like_any_other():
    by = nn.Parameter(torch.linspace(0.5, 2, 8))
    model = Between(lambda m, x: m.a(x) * m.by.reshape(1, -1, 1, 1), a=nn.Conv2d(8, 8, 1), by=by)
    traced = assert_cut_is_deaf(settled(model))
    small = copy.deepcopy(cut_to(traced, random_channels(traced.network, 0))).train()
    small(torch.randn(2, *SHAPE)).sum().backward()
    (scale,) = (p for name, p in small.named_parameters() if name.startswith("constant_"))
    assert scale.grad.abs().sum() > 0
    Reconstruction(traced, Noise()).refit(random_channels(traced.network, 0))


WRITTEN_OUT = [  # by PyTorch's exporter, in operators of its own choice
    "gelu", "mish", "group norm", "channels last", "split", "shuffle", "squeeze and excitation",
]  # fmt: skip


@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_a_model_that_pytorch_exported_has_the_layers_of_the_traced_one(name, tmp_path):
    model = model_of(name)
    export_onnx(model, SHAPE, tmp_path / "net.onnx")
    network = trace(model, SHAPE, "m").network
    assert structure(read_onnx(tmp_path / "net.onnx")) == structure(network)


# Without what leaves maps that another one cannot read: more or fewer channels, or uneven sides.
BLOCKS = sorted({*OPERATORS} - {"pixel shuffle", "transposed", "padded shortcut", "adaptive"})


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(BLOCKS), min_size=2, max_size=4), st.integers(0, 10**6))
def test_a_random_network_of_operators_is_cut_as_its_deaf_parent_and_read_back(
    tmp_path_factory, names, seed
):
    torch.manual_seed(seed)
    traced = assert_cut_is_deaf(settled(nn.Sequential(*map(_block, names))), seed=seed)
    assert_read_back(traced.network, tmp_path_factory.mktemp("read"))


def _block(name):
    function, reads, modules = OPERATORS[name]
    block = Between(function, reads, **copy.deepcopy(modules))
    block.head = nn.Conv2d(12, 3, 1)
    return block


def test_a_network_that_is_cut_wrongly_is_noticed(monkeypatch):
    traced = trace(model_of("dilated"), SHAPE, "m")
    assert check.require_right_cuts(traced) < 1e-5
    right = check.cut_to

    def others(traced, kept):
        widths = {group.name: group.width for group in traced.network.groups}
        return right(traced, {name: (stay + 1) % widths[name] for name, stay in kept.items()})

    monkeypatch.setattr(check, "cut_to", others)
    with pytest.raises(TraceError, match=r"a cut m differs from .* Please report this model"):
        check.require_right_cuts(traced)


@pytest.mark.parametrize("make", [UNet, PartialDetector])
def test_networks_of_several_scales_are_cut_as_their_deaf_parents(make):
    traced = trace(settled(make(width=8)), (3, 64, 64), "m")
    assert len(traced.network.groups) > 5
    assert check.require_right_cuts(traced, times=1) < 1e-4
