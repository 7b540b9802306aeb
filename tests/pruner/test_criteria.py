"""Which channels stay: every ranking, and the selection that trains."""

from dataclasses import replace

import pytest
import torch

from lookup_tables.architecture import Architecture
from pruner.criteria import CRITERIA, dynamic
from pruner.criteria.coupled import coupled_magnitude
from pruner.criteria.dynamic import Phase, _exchange, _snapshot, activity, hide, select
from pruner.criteria.magnitude import l1_norm
from pruner.criteria.taylor import _squares, importance
from pruner.criteria.writers import filters
from pruner.data import load_data
from pruner.graph.surgery import cut, keep_best, positions
from pruner.graph.trace import trace
from pruner.models.imagenet import mobilenet_v2_cifar
from pruner.train.tasks.classification import Classification
from tests.toys import Branches, tiny_resnet

IMAGES = load_data("digits").train
QUICK = Phase(steps=12, interval=4, batch=32)


@pytest.fixture
def traced():
    torch.manual_seed(0)
    return trace(tiny_resnet().eval(), (1, 8, 8), "tiny")


@pytest.mark.parametrize("name", CRITERIA)
def test_every_ranking_scores_every_channel_and_changes_no_weight(traced, name):
    before = {key: value.clone() for key, value in traced.module.state_dict().items()}
    scores = CRITERIA[name].rank(traced, IMAGES)
    assert {n: len(s) for n, s in scores.items()} == {
        g.name: g.width for g in traced.network.groups
    }
    assert all((s >= 0).all() and s.isfinite().all() for s in scores.values())
    assert all(torch.equal(traced.module.state_dict()[key], v) for key, v in before.items())


@pytest.mark.parametrize("name", CRITERIA)
def test_frozen_weights_and_a_batch_norm_without_weights_are_scored_too(name):
    torch.manual_seed(0)
    model = tiny_resnet().eval()
    model.layer1[0].bn1 = torch.nn.BatchNorm2d(16, affine=False).eval()
    model.conv1.weight.requires_grad_(False)
    traced = trace(model, (1, 8, 8), "tiny")
    scores = CRITERIA[name].rank(traced, IMAGES)
    assert all(values.isfinite().all() for values in scores.values())
    assert float(importance(traced, IMAGES)["layer1.0.conv1"].sum()) > 0
    assert not traced.module.conv1.weight.requires_grad


def test_a_filter_equal_to_the_others_mean_is_the_first_that_fpgm_drops(traced):
    layer = traced.module.get_submodule("layer1.0.conv1")
    with torch.no_grad():
        layer.weight[3] = layer.weight[torch.arange(16) != 3].mean(dim=0)
    assert int(CRITERIA["fpgm"].rank(traced, IMAGES)["layer1.0.conv1"].argmin()) == 3


@pytest.mark.parametrize("name", ["l1", "l2", "taylor", "batch_norm"])
def test_a_channel_that_writes_nothing_is_worth_nothing(traced, name):
    layer = traced.module.get_submodule("layer1.0.conv1")
    norm = traced.module.get_submodule(traced.batch_norms["layer1.0.conv1"])
    with torch.no_grad():
        layer.weight[5], norm.weight[5], norm.bias[5] = 0.0, 0.0, 0.0
    assert int(CRITERIA[name].rank(traced, IMAGES)["layer1.0.conv1"].argmin()) == 5


def test_taylor_foretells_what_the_loss_changes_without_a_channel(traced):
    """∂E/∂g of a gate is what E loses, to first order, when the gate closes a little."""
    import torch.nn.functional as F

    from pruner.criteria.taylor import gate_gradient

    x, labels = IMAGES.batch(torch.arange(64))
    model = traced.module
    norm = model.get_submodule(traced.batch_norms["layer1.0.conv1"])
    loss = F.cross_entropy(model(x), labels)
    loss.backward()
    slope = float(gate_gradient(model.get_submodule("layer1.0.conv1"), norm)[2])
    with torch.no_grad():
        norm.weight[2] *= 1.001
        norm.bias[2] *= 1.001
        changed = F.cross_entropy(model(x), labels)
    assert float(changed - loss.detach()) == pytest.approx(0.001 * slope, rel=0.1, abs=1e-6)


def test_importance_names_every_group_and_every_block(traced):
    found = importance(traced, IMAGES)
    assert set(found) == {g.name for g in traced.network.groups} | {
        b.name for b in traced.network.blocks
    }


def half_of(network):
    return Architecture(widths={g.name: max(1, g.width // 2) for g in network.groups})


def masks_of(network, kept):
    return {name: torch.zeros(g.width).index_fill(0, kept[name], 1.0)
            for name, g in network.group.items()}  # fmt: skip


@pytest.mark.parametrize("make", [tiny_resnet, Branches, mobilenet_v2_cifar])
def test_the_masked_network_computes_what_the_cut_one_does(make):
    torch.manual_seed(0)
    model = make().eval()
    shape = (1, 8, 8) if make is tiny_resnet else (3, 8, 8) if make is Branches else (3, 32, 32)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    model.train()(torch.randn(16, *shape))  # signals of a usual size
    traced = trace(model.eval(), shape, "net")
    architecture = half_of(traced.network)
    kept = keep_best(traced.network, architecture, l1_norm(traced))
    x = torch.randn(3, *shape)
    with torch.no_grad():
        smaller = cut(traced, architecture, kept)(x)
        with hide(traced, masks_of(traced.network, kept)):
            masked = traced.module(x)
        assert not torch.allclose(traced.module(x), masked, atol=1e-4)
    assert torch.allclose(masked, smaller, atol=1e-4)


def learn_masked(traced, kept):
    """One backward pass of the network whose other channels are hidden."""
    x, labels = IMAGES.batch(torch.arange(64))
    traced.module.train()
    with hide(traced, masks_of(traced.network, kept)):
        torch.nn.functional.cross_entropy(traced.module(x), labels).backward()
    traced.module.eval()


def test_kept_filters_learn_what_they_learn_in_the_network_that_is_cut(traced):
    kept = keep_best(traced.network, half_of(traced.network), l1_norm(traced))
    small = cut(traced, half_of(traced.network), kept).train()
    learn_masked(traced, kept)
    x, labels = IMAGES.batch(torch.arange(64))
    torch.nn.functional.cross_entropy(small(x), labels).backward()
    for path, channels in traced.channels.items():
        whole = traced.module.get_submodule(path).weight.grad
        found = whole[positions(channels.writes, kept)]
        if whole.dim() > 1:
            found = found[:, positions(channels.reads, kept)]
        expected = small.get_submodule(path).weight.grad
        assert torch.allclose(found, expected, rtol=1e-3, atol=1e-6), path
    traced.module.zero_grad(set_to_none=True)


def test_masked_filters_receive_gradient(traced):
    kept = keep_best(traced.network, half_of(traced.network), l1_norm(traced))
    learn_masked(traced, kept)
    for layer in (entry for entry in traced.network.layers if entry.group):
        gradient = traced.module.get_submodule(layer.name).weight.grad.flatten(1).abs().sum(1)
        hidden = masks_of(traced.network, kept)[layer.group] == 0
        assert (gradient[hidden] > 0).float().mean() > 0.8, layer.name
    traced.module.zero_grad(set_to_none=True)


def test_regeneration_brings_pruned_filters_back(traced, monkeypatch):
    """Seen from rank to rank: with ρ above 0 a masked filter is shown again, with 0 never."""
    returned = []

    def watched(masks, scores, share):
        before = {name: mask.clone() for name, mask in masks.items()}
        real(masks, scores, share)
        returned.append(sum(int((masks[n] > before[n]).sum()) for n in masks))

    real = dynamic._exchange
    monkeypatch.setattr(dynamic, "_exchange", watched)
    phase = Phase(steps=20, interval=4, batch=32, rate=0.1)
    select(traced, half_of(traced.network), IMAGES, phase)
    assert sum(returned) > 0
    assert returned[-1] == 0  # ρ has fallen to nothing
    returned.clear()
    select(traced, half_of(traced.network), IMAGES, replace(phase, regenerated=0.0))
    assert sum(returned) == 0


def test_filters_leave_by_and_by_until_the_widths_are_reached(traced, monkeypatch):
    seen = []
    real = dynamic._narrow

    def watched(masks, scores, widths, progress):
        real(masks, scores, widths, progress)
        seen.append(int(masks["layer1.0.conv1"].sum()))

    monkeypatch.setattr(dynamic, "_narrow", watched)
    select(traced, half_of(traced.network), IMAGES, Phase(steps=16, interval=4, batch=32))
    assert seen == [12, 8, 8, 8]


def test_filters_that_another_criterion_chose_stay_throughout(traced):
    first = keep_best(traced.network, half_of(traced.network), l1_norm(traced))
    phase = Phase(steps=8, interval=4, batch=32)
    trained, kept = select(traced, half_of(traced.network), IMAGES, phase, fixed=first)
    assert all(torch.equal(kept[name], first[name]) for name in first)
    assert not torch.equal(trained.module.conv1.weight, traced.module.conv1.weight)


def test_coupled_magnitude_weighs_writers_readers_and_norms_on_one_scale(traced):
    found = coupled_magnitude(traced)
    for name, values in found.items():
        assert values.mean() == pytest.approx(1.0, rel=1e-5), name
    module = traced.module
    writer, norm = module.get_submodule("layer1.0.conv1"), module.get_submodule("layer1.0.bn1")
    reader = module.get_submodule("layer1.0.conv2")
    parts = torch.stack([
        writer.weight.flatten(1).square().sum(1), norm.weight.square(),
        reader.weight.transpose(0, 1).flatten(1).square().sum(1),
    ]).mean(0).detach()  # fmt: skip
    assert torch.allclose(found["layer1.0.conv1"], parts / parts.mean(), atol=1e-5)


def test_a_block_of_depthwise_layers_only_is_worth_nothing():
    class Mixes(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(1, 8, 3, padding=1)
            self.spread = torch.nn.Conv2d(8, 8, 3, padding=1, groups=8)
            self.pool = torch.nn.AdaptiveAvgPool2d(1)
            self.head = torch.nn.Linear(8, 10)

        def forward(self, x):
            x = torch.relu(self.conv(x))
            x = x + self.spread(x)
            return self.head(torch.flatten(self.pool(x), 1))

    traced = trace(Mixes(), (1, 8, 8), "mixes")
    (block,) = traced.network.blocks
    found = importance(traced, IMAGES)
    assert set(found) == {block.name, *(group.name for group in traced.network.groups)}
    assert found[block.name].tolist() == [0.0]
    assert all(found[group.name].sum() > 0 for group in traced.network.groups)


def test_dynamic_selection_keeps_the_widths_that_were_asked_for(traced):
    removed = (traced.network.blocks[0].name,)
    architecture = Architecture(widths={"conv1": 10, "layer2.1.conv1": 5}, removed=removed)
    trained, kept = select(traced, architecture, IMAGES, QUICK)
    widths = traced.network.widths(architecture)
    assert {name: len(channels) for name, channels in kept.items()} == widths
    model = cut(trained, architecture, kept)
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_dynamic_selection_is_the_same_for_the_same_seed(traced):
    architecture = Architecture(widths={"conv1": 10})
    first, second = (select(traced, architecture, IMAGES, QUICK, seed=3)[1] for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_without_regeneration_the_most_active_filters_stay(traced):
    architecture = Architecture(widths={"layer1.0.conv1": 4})
    layer = "layer1.0.conv1"
    module = traced.module.get_submodule(layer)
    before = {
        traced.module.get_submodule(entry.name): filters(
            traced.module.get_submodule(entry.name)
        ).clone()
        for entry in traced.network.layers
        if entry.group
    }
    trained, kept = select(traced, architecture, IMAGES, Phase(steps=6, batch=32, regenerated=0))
    then = {trained.module.get_submodule(e.name): before[traced.module.get_submodule(e.name)]
            for e in traced.network.layers if e.group}  # fmt: skip
    most = activity(trained, then)[layer].topk(4).indices.sort().values
    assert torch.equal(kept[layer].sort().values, most)
    assert not torch.equal(module.weight, trained.module.get_submodule(layer).weight)


def test_only_a_pruned_filter_that_is_more_active_takes_the_place_of_a_kept_one():
    masks = {"g": torch.tensor([1.0, 1, 0, 0])}
    _exchange(masks, {"g": torch.tensor([0.1, 0.9, 0.5, 0.05])}, 1.0)
    assert masks["g"].tolist() == [0, 1, 1, 0]


def test_the_filter_that_turned_away_from_the_others_is_the_most_active(traced):
    before = _snapshot(traced)
    layer = traced.module.get_submodule("layer1.0.conv1")
    with torch.no_grad():
        layer.weight.mul_(2)  # all alike: no direction of its own
        layer.weight[5] = layer.weight[5].flip(0, 1, 2)
    assert int(activity(traced, before)["layer1.0.conv1"].argmax()) == 5


def test_a_block_is_worth_what_the_last_layer_inside_writes(traced):
    found = importance(traced, IMAGES)
    block = next(b for b in traced.network.blocks if b.name == "layer1.1")
    last = traced.module.get_submodule(block.layers[-1])
    assert float(found["layer1.1"]) == pytest.approx(
        float(_squares(traced, IMAGES, Classification())[last].sum()), rel=1e-3
    )


def test_coupled_layers_importances_add_up(traced):
    squares, found = _squares(traced, IMAGES, Classification()), importance(traced, IMAGES)
    writers = [layer.name for layer in traced.network.layers if layer.group == "conv1"]
    assert len(writers) > 1
    total = sum(squares[traced.module.get_submodule(name)] for name in writers)
    assert torch.allclose(found["conv1"], total, rtol=1e-3)
