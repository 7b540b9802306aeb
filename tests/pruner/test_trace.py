import pytest
import torch
import torch.nn.functional as F
import torch_pruning
from torch import nn
from torch.nn.utils import prune

from lookup_tables.graph.assembly import menu
from lookup_tables.network import Network, network_names
from pruner import TraceError, models
from pruner.graph.trace import trace
from pruner.models.resnet import BasicBlock
from tests.toys import Branches, Gated, tiny_resnet


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
    with torch.device("meta"):
        model = known.factory()
    assert trace(model, known.input_shape, name).network == Network.load(name)


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
    model = nn.Sequential(nn.ReLU(), DataDependent())
    said = r"cannot trace Sequential: in 1 \(test_trace.py:\d+\), .* depend on the shape"
    with pytest.raises(TraceError, match=said):
        trace(model, (3, 8, 8), "m")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.Softmax(dim=1)), "layer 1: softmax is not supported"),
        (nn.Sequential(nn.Conv3d(3, 8, 3)), "cannot run the model on one 3×8×8 input"),
        (
            nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, track_running_stats=False)),
            "layer 1: BatchNorm without running statistics",
        ),
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8)), "layer 1: instance_norm is not"),
        (nn.Sequential(nn.Conv2d(5, 8, 3)), "cannot run the model on one 3×8×8 input"),
    ],
)
def test_what_cannot_be_traced_is_refused_naming_the_layer(model, message):
    with pytest.raises(TraceError, match=message):
        trace(model, (3, 8, 8), "m")


class FromFunction(nn.Module):
    """Two convolutions, a pool, and a forward given as a function of them."""

    def __init__(self, forward):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.other = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.pool = nn.MaxPool2d(2)
        self.linear = nn.Linear(48, 5)
        self.bare = nn.Parameter(torch.ones(1))
        self.function = forward

    def forward(self, x):
        return self.function(self, x)


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda m, x: x.size(0) * m.conv(x), "forward mixes the images"),
        (lambda m, x: x.size(0) / x.size(0) * m.conv(x), "computes with the number of images"),
        (lambda m, x: m.conv(x) + m.conv2(x), "no attribute 'conv2'"),
        (
            lambda m, x: m.conv(x) + m.other(x).mean((2, 3), keepdim=True)[:, :3].mean(1, True),
            "a mean over",
        ),
        (lambda m, x: torch.cat([m.conv(x), m.norm(x)], dim=2), "concatenates along dimension 2"),
        (lambda m, x: F.adaptive_avg_pool2d(m.conv(x), 3), "sizes that divide what is pooled"),
        (
            lambda m, x: F.interpolate(m.conv(x), size=(12, 12)),
            "only nearest-neighbour upsampling by whole",
        ),
        (lambda m, x: m.conv(x).view(-1, 3, 4, 16), "only flattening to"),
        (lambda m, x: m.conv(x).squeeze(), "answers .* for 2 images"),
        (lambda m, x: m.conv(x).mean(0), "answers .* for 2 images"),
        (lambda m, x: m.conv(x) - m.conv(x).mean(0), "forward mixes the images"),
        (lambda m, x: m.conv(x).view(2, -1, 8, 8), "cannot run|answers|images"),
        (lambda m, x: m.conv(x).mean((1, 2)), r"a mean over dimensions \[1, 2\]"),
        (lambda m, x: F.pad(m.conv(x), (1, 1, 1, 1), mode="reflect"), "only constants around"),
        (lambda m, x: m.conv(x)[:, :, 1:], "takes a part of"),
        (lambda m, x: m.conv(x).permute(0, 1, 3, 2), "permutes"),
        (lambda m, x: m.conv(x).permute(0, 2, 3, 1).mean((2, 3)), "mean reads maps whose channels"),
        (
            lambda m, x: m.conv(x).permute(0, 2, 3, 1).flatten(1),
            "flatten reads maps whose channels",
        ),
        (
            lambda m, x: torch.cat([m.conv(x).permute(0, 2, 3, 1)] * 2, 1),
            "cat reads maps whose channels lie last; permute them back",
        ),
        (
            lambda m, x: nn.functional.linear(m.conv(x), m.linear.weight[:, :8]),
            "a linear layer over",
        ),
        (lambda m, x: m.conv(x.abs()), "abs is not supported"),
        (lambda m, x: torch.cat([m.conv(x).flatten(1), m.other(x).flatten(1)], 1), "flattened"),
    ],
)
def test_what_a_forward_may_not_do_is_named(forward, message):
    with pytest.raises(TraceError, match=message):
        trace(FromFunction(forward), (3, 8, 8), "m")


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: torch.cat([m.conv(x), m.other(x)], axis=1),
        lambda m, x: torch.cat(tensors=[m.conv(x), m.other(x)], dim=1),
        lambda m, x: torch.cat(axis=-3, tensors=(m.conv(x), m.other(x))),
    ],
)
def test_a_concatenation_is_read_however_its_arguments_are_named(forward):
    network = trace(FromFunction(forward), (3, 8, 8), "m").network
    assert [layer.kind for layer in network.layers] == ["conv", "conv", "concat"]


def test_a_reshape_is_read_however_its_arguments_are_named():
    def forward(m, x):
        return m.linear(torch.reshape(input=m.pool(m.conv(x)), shape=(x.size(0), -1)))

    network = trace(FromFunction(forward), (3, 8, 8), "m").network
    assert [layer.kind for layer in network.layers] == ["conv", "max_pool", "linear"]


def test_a_second_input_is_refused():
    class Two(nn.Module):
        def forward(self, x, y):
            return x + y

    with pytest.raises(TraceError, match="cannot run the model on one 3×8×8 input"):
        trace(Two(), (3, 8, 8), "m")


def test_an_argument_with_a_default_is_what_its_default_says():
    class Masked(nn.Conv2d):
        def forward(self, x, mask=2.0, mode="plain"):
            return super().forward(x) * mask if mode == "plain" else x

    model, x = Masked(3, 4, 3), torch.randn(2, 3, 8, 8)
    traced = trace(model, (3, 8, 8), "m")
    assert [layer.kind for layer in traced.network.layers] == ["conv", "scale"]
    assert torch.equal(traced.module(x), model(x))


def test_an_optional_input_that_is_never_read_is_no_second_input():
    class Ignores(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x, mask=None):
            return self.conv(x)

    assert [layer.name for layer in trace(Ignores(), (3, 8, 8), "m").network.layers] == ["conv"]


def _in_place(change):
    def forward(m, x):
        x = m.conv(x)
        change(m, x)
        return m.other(x)

    return FromFunction(forward)


@pytest.mark.parametrize(
    "change",
    [
        lambda m, x: m.relu(x),
        lambda m, x: F.relu(x, inplace=True),
        lambda m, x: F.relu(x, True),
        lambda m, x: torch.relu_(x),
        lambda m, x: x.relu_(),
        lambda m, x: x.add_(x),
    ],
)
def test_a_change_in_place_that_is_not_assigned_is_a_change(change):
    model, x = _in_place(change), torch.randn(2, 3, 8, 8)
    model.relu = nn.ReLU(inplace=True)
    traced = trace(model, (3, 8, 8), "m")
    assert torch.equal(traced.module(x), model(x))
    assert not torch.equal(traced.module(x), model.other(model.conv(x)))


@pytest.mark.parametrize(
    "change",
    [
        lambda m, x: x[:, 0].zero_(),
        lambda m, x: x.view(-1, 3, 64).relu_(),
        lambda m, x: x.narrow(1, 0, 2).mul_(2),
    ],
)
def test_a_change_in_place_of_a_part_that_is_read_as_a_whole_is_refused(change):
    said = r"layer .* \(test_trace.py:\d+\): forward changes a part of a tensor in place"
    with pytest.raises(TraceError, match=said):
        trace(_in_place(change), (3, 8, 8), "m")


def test_what_is_changed_in_place_and_never_needed_is_left_out():
    def forward(m, x):
        F.relu(m.other(x), inplace=True)
        return m.relu(m.conv(x))

    model = FromFunction(forward)
    model.relu = nn.ReLU(inplace=True)
    traced, x = trace(model, (3, 8, 8), "m"), torch.randn(2, 3, 8, 8)
    assert [layer.name for layer in traced.network.layers] == ["conv"]
    assert torch.equal(traced.module(x), model(x))


def test_a_pool_may_be_called_again_and_again():
    model = FromFunction(lambda m, x: m.pool(torch.relu(m.other(m.pool(m.conv(x))))))
    kinds = [layer.kind for layer in trace(model, (3, 8, 8), "m").network.layers]
    assert kinds == ["conv", "max_pool", "conv", "max_pool"]


def test_layers_that_no_output_needs_are_left_out():
    def forward(m, x):
        m.other(x)
        return m.conv(x)

    network = trace(FromFunction(forward), (3, 8, 8), "m").network
    assert [layer.name for layer in network.layers] == ["conv"]


def test_adding_a_tensor_to_itself_reads_it_twice():
    network = trace(FromFunction(lambda m, x: (lambda y: y + y)(m.conv(x))), (3, 8, 8), "m").network
    assert network.layers[-1].inputs == ("conv", "conv")


def test_dropout_stays_off_in_evaluation_and_on_in_training():
    def forward(m, x):
        return m.linear(F.dropout(m.pool(m.conv(x)).flatten(1), 0.5, m.training))

    module = trace(FromFunction(forward).eval(), (3, 8, 8), "m").module
    x = torch.randn(2, 3, 8, 8)
    module.eval()
    assert torch.equal(module(x), module(x))
    module.train()
    assert not torch.equal(module(x), module(x))


def test_of_blocks_within_blocks_the_inner_ones_are_offered():
    class Nested(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 3, padding=1)
            self.body = nn.Sequential(BasicBlock(8, 8, 1), BasicBlock(8, 8, 1))
            self.tail = nn.Conv2d(8, 8, 3, padding=1)
            self.last = nn.Conv2d(8, 4, 1)

        def forward(self, x):
            x = self.stem(x)
            return self.last(x + self.tail(self.body(x)))

    network = trace(Nested(), (3, 8, 8), "m").network
    assert [block.name for block in network.blocks] == ["body.0", "body.1"]


def test_every_head_of_a_detector_is_an_output():
    network = Network.load("yolov3")
    assert sum(layer.kind == "conv" for layer in network.layers) == 75
    assert len(network.blocks) == 23
    assert network.outputs(network.dense) == ["coarse.predict", "middle.predict", "fine.predict"]
    macs = network.macs(network.widths(network.dense))
    assert 2 * macs == pytest.approx(65.9e9, rel=0.01)  # YOLOv3 at 416, 80 classes


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


class Standardised(nn.Conv2d):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, weight - weight.mean(), bias)


@pytest.mark.parametrize(
    "module",
    [Standardised(3, 8, 3), nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3))],
)
def test_weights_that_are_computed_become_weights_of_their_own(module):
    model, x = nn.Sequential(module, nn.ReLU(), nn.Conv2d(8, 4, 1)), torch.randn(2, 3, 8, 8)
    traced = trace(model, (3, 8, 8), "m")
    assert [layer.name for layer in traced.network.layers] == ["0", "2"]
    assert torch.allclose(traced.module(x), model(x), atol=1e-6)
    assert {"0.weight", "0.bias", "2.weight", "2.bias"} == {*traced.module.state_dict()}


@pytest.mark.parametrize(
    ("wrap", "said"),
    [
        (lambda conv: prune.l1_unstructured(conv, "weight", 0.5), "prune.remove"),
        (nn.utils.weight_norm, "remove_weight_norm"),
        (nn.utils.spectral_norm, "remove_spectral_norm"),
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_hooks_that_compute_a_weight_are_refused_with_what_to_do(wrap, said):
    model = nn.Sequential(nn.ReLU(), nn.Conv2d(3, 8, 3))
    wrap(model[1])
    with pytest.raises(TraceError, match=f"layer 1 has .*{said}"):
        trace(model, (3, 8, 8), "m")


def test_what_a_user_s_class_computes_is_a_layer_under_its_own_path():
    class NormAct(nn.BatchNorm2d):
        def forward(self, x):
            x = F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias)
            return F.silu(x)

    class Flagged(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 8, 3), NormAct(8)
            self.down = None

        def forward(self, x):
            x = self.norm(self.conv(x))
            if self.down is not None and isinstance(self.down, nn.Conv2d):
                x = self.down(x)
            return x if x.shape[-1] > 4 else x * 2

    model, x = Flagged().eval(), torch.randn(2, 3, 8, 8)
    traced = trace(model, (3, 8, 8), "m")
    (layer,) = traced.network.layers
    assert (layer.name, layer.activation) == ("conv", "silu")
    assert {*traced.module.state_dict()} == {*model.state_dict()}
    assert traced.module.norm.weight is model.norm.weight
    assert torch.equal(traced.module(x), model(x))


def test_a_traced_model_takes_any_number_of_images():
    model = models.build("resnet20", 10).eval()
    module = trace(model, (3, 32, 32), "m").module
    for count in (1, 5):
        x = torch.randn(count, 3, 32, 32)
        assert torch.equal(module(x), model(x))


def test_answers_keep_their_form():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return {"maps": self.conv(x), "sums": [torch.relu(self.conv.bias), None][1]}

    answer = trace(Two(), (3, 8, 8), "m").module(torch.randn(1, 3, 8, 8))
    assert {*answer} == {"maps", "sums"}
    assert answer["sums"] is None


def test_why_a_layer_keeps_its_width_is_told():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=2), nn.Conv2d(8, 6, 1), nn.GroupNorm(2, 6),
        nn.Conv2d(6, 4, 1),
    )  # fmt: skip
    kept = trace(model, (3, 8, 8), "m").kept
    assert {name: why.split()[0:2] for name, why in kept.items()} == {
        "0": ["1", "reads"], "1": ["1", "reads"], "2": ["3", "takes"], "4": ["the", "network's"],
    }  # fmt: skip
