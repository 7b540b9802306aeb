"""Layers that go: which can, what the network then is, and by what they are chosen."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lookup_tables.architecture import Architecture
from lookup_tables.model.latency_model import LatencyModel
from lookup_tables.network import Network
from pruner import RunError, SearchError
from pruner.criteria import CRITERIA, dynamic
from pruner.criteria.coupled import coupled_magnitude
from pruner.criteria.layers import LAYER_CRITERIA, imprinting, of_groups_and_blocks
from pruner.data import load_data
from pruner.graph.compensation import Reconstruction
from pruner.graph.surgery import cut, keep_best
from pruner.graph.trace import trace
from pruner.run.journey import _in_common
from pruner.search.completion import Completion
from pruner.search.space import Kind, SearchSpace
from pruner.train.tasks.classification import CLASSIFIED
from tests.searching import completion_of, problem_of, search, space_of
from tests.toys import synthetic_table, tiny_resnet, true_s

IMAGES = load_data("digits").train


def block(reads, writes, groups=1):
    return [
        nn.Conv2d(reads, writes, 3, padding=1, groups=groups, bias=False),
        nn.BatchNorm2d(writes),
        nn.ReLU(),
    ]


def tiny_vgg() -> nn.Module:
    """1×8×8: layers 3 and 6 keep shape and follow each other, 10 is depthwise, 13 keeps shape."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *block(1, 8), *block(8, 8), *block(8, 8), nn.MaxPool2d(2), *block(8, 8, groups=8),
        *block(8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
    )  # fmt: skip
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
    return model.eval()


VGG = trace(tiny_vgg(), (1, 8, 8), "vgg")
MENU = {group.name: (2, 4, 8) for group in VGG.network.groups}
NETWORK = VGG.network.with_menu(MENU)
PLAIN = ["3", "6", "10", "13"]


@pytest.fixture(scope="module")
def latency(tmp_path_factory):
    return LatencyModel(NETWORK, synthetic_table(tmp_path_factory.mktemp("t") / "t", NETWORK))


# -- which can go, and what is left ----------------------------------------------------------------


def test_convolutions_that_keep_shape_can_go_and_tie_the_groups_around_them():
    assert [each.name for each in VGG.network.blocks] == PLAIN
    assert VGG.network.ties == {"3": ("3", "0"), "6": ("6", "3"), "13": ("13", "6")}
    without = Architecture(widths={"0": 4, "3": 6, "6": 2}, removed=("3", "6"))
    widths = VGG.network.widths(without)
    assert widths == {"0": 4, "3": 4, "6": 4, "13": 8}


class Outside(nn.Module):
    """What a plain layer writes is also added to, returned, or written by another layer."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.first, self.second, self.third = (
            nn.Conv2d(n, 8, 3, padding=1, stride=s) for n, s in ((1, 1), (8, 1), (8, 1))
        )
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        x = torch.relu(self.first(x))
        y = torch.relu(self.second(x))
        if self.way == "returned":
            return self.head(self.third(y).mean((2, 3))), y
        if self.way == "two writers":
            return self.head((y + self.third(y)).mean((2, 3)))
        return self.head(self.third(y).mean((2, 3)))


@pytest.mark.parametrize(("way", "plain"), [("as it is", {"second", "third"}), ("returned", set())])
def test_a_layer_whose_output_somebody_else_needs_stays(way, plain):
    """So does one that reads channels that cannot change, and writes others that can."""
    network = trace(Outside(way).eval(), (1, 8, 8), "outside").network
    assert {each.name for each in network.blocks} == plain


def test_a_layer_whose_channels_another_layer_writes_too_stays():
    network = trace(Outside("two writers").eval(), (1, 8, 8), "outside").network
    assert [each.layers for each in network.blocks] == [("third",)]  # inside the shortcut
    assert not network.ties


def test_the_network_that_a_table_was_measured_for_is_the_same_with_and_without_plain_layers():
    bare = VGG.network.with_blocks(())
    assert bare.fingerprint == VGG.network.fingerprint
    assert Network.model_validate_json(VGG.network.model_dump_json()) == VGG.network
    deep = trace(tiny_resnet(), (1, 8, 8), "tiny").network
    assert deep.with_blocks(()).fingerprint != deep.fingerprint


def identity_instead(model, names):
    """The model with layers, their BatchNorms and activations, as if they were not there."""
    layers = dict(model.named_children())
    for name in names:
        for each in range(int(name), int(name) + 3):
            layers[str(each)] = nn.Identity()
    return nn.Sequential(*layers.values()).eval()


@pytest.mark.parametrize("removed", [("3",), ("3", "6"), ("10",), ("6", "10", "13"), tuple(PLAIN)])
def test_a_network_without_plain_layers_computes_as_if_they_were_identities(removed):
    whole = {group.name: torch.arange(group.width) for group in VGG.network.groups}
    small = cut(VGG, Architecture(removed=removed), whole).eval()
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(small(x), identity_instead(tiny_vgg(), removed)(x))
    assert not {*removed} & {name for name, _ in small.named_modules()}


def test_a_narrow_network_without_plain_layers_is_the_identity_one_with_silent_channels():
    architecture = Architecture(widths={"0": 5, "3": 3, "13": 6}, removed=("3",))
    scores = {g.name: torch.arange(float(g.width)) for g in VGG.network.groups}
    kept = keep_best(VGG.network, architecture, scores)
    assert kept["3"].tolist() == kept["0"].tolist() == [3, 4, 5, 6, 7]
    small = cut(VGG, architecture, kept).eval()
    full = identity_instead(tiny_vgg(), ["3"])
    with torch.no_grad():
        for layer, norm, group in ((0, 1, "0"), (6, 7, "6"), (13, 14, "13")):
            if group in kept:
                silent = [c for c in range(8) if c not in kept[group].tolist()]
                full[layer].weight[silent] = 0
                full[norm].weight[silent] = full[norm].bias[silent] = 0
                full[norm].running_mean[silent] = 0
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(small(x), full(x), rtol=1e-4, atol=1e-5)


class Silent(nn.Module):
    """A 1×1 layer behind a 3×3 one, and no activation: one can do the work of both."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 6, 1)
        self.head = nn.Linear(6, 10)

    def forward(self, x):
        return self.head(self.second(self.first(x)).mean((2, 3)))


class Twice(nn.Module):
    """A plain layer, a depthwise block with a shortcut, and another plain layer, one after the
    other."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.plain = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.inside = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.last = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        x = torch.relu(self.plain(torch.relu(self.first(x))))
        x = x + torch.relu(self.inside(x))
        return self.head(torch.relu(self.last(x)).mean((2, 3)))


def test_layers_that_follow_each_other_all_go_whatever_is_between():
    traced = trace(Twice().eval(), (1, 8, 8), "twice")
    removed = tuple(block.name for block in traced.network.blocks)
    assert len(removed) == 3
    whole = {group.name: torch.arange(group.width) for group in traced.network.groups}
    small = cut(traced, Architecture(removed=removed), whole)
    left = {name for name, each in small.named_modules() if isinstance(each, nn.Conv2d)}
    assert left == {"first"}


def test_selection_in_training_masks_tied_groups_alike():
    architecture = Architecture(widths={"0": 4, "3": 4}, removed=("3",))
    phase = dynamic.Phase(steps=4, batch=8, interval=2)
    trained, kept = dynamic.select(VGG, architecture, IMAGES, phase)
    assert kept["3"].tolist() == kept["0"].tolist()
    assert len(kept["0"]) == 4
    small = cut(trained, architecture, kept)
    assert small.get_submodule("6").weight.shape[1] == 4


def test_the_layer_before_a_removed_one_takes_over_what_it_can_write():
    torch.manual_seed(0)
    traced = trace(Silent().eval(), (1, 8, 8), "silent")
    removed = ("second",)
    whole = {group.name: torch.arange(group.width) for group in traced.network.groups}
    refitted = Reconstruction(traced, IMAGES).refit(whole, removed)
    small = cut(refitted, Architecture(removed=removed), whole).eval()
    x, _ = IMAGES.batch(torch.arange(32))
    with torch.no_grad():
        torch.testing.assert_close(small(x), traced.module(x), rtol=1e-2, atol=1e-3)


def test_channels_that_a_layer_takes_over_are_judged_as_those_they_stand_for():
    torch.manual_seed(0)
    traced = trace(Silent().eval(), (1, 8, 8), "silent")
    scores = {"first": torch.arange(6.0), "second": -torch.arange(6.0)}
    found = Reconstruction(traced, IMAGES).judged_as(scores, ("second",))
    assert found["first"].tolist() == scores["second"].tolist()
    assert Reconstruction(traced, IMAGES).judged_as(scores, ()) == scores


# -- what it costs, and the space of a search ------------------------------------------------------


def everything(space):
    return product(*(range(len(decision.options)) for decision in space.decisions))


def test_a_network_without_plain_layers_is_priced_as_what_is_left_of_it(latency):
    for removed in ((), ("3",), ("3", "6"), ("10", "13"), tuple(PLAIN)):
        for width in (2, 4, 8):
            architecture = Architecture(widths={"0": width, "3": 8, "6": 4}, removed=removed)
            known = true_s(NETWORK, architecture)
            assert latency.latency_s(architecture) == pytest.approx(known, rel=1e-6)
            assert sum(each.seconds for each in latency.layers(architecture)) == pytest.approx(
                known
            )


def test_macs_of_arrays_are_those_of_architectures():
    removed = {"3": np.array([False, True]), "13": np.array([True, True])}
    widths = {"0": np.array([4, 4]), "3": np.array([8, 8]), "6": np.array([6, 6]), "13": 8}
    found = NETWORK.macs(widths, removed)
    for row, gone in enumerate((("13",), ("3", "13"))):
        one = Architecture(widths={"0": 4, "3": 8, "6": 6, "13": 8}, removed=gone)
        assert found[row] == NETWORK.macs_of(one)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_an_encoding_is_its_architecture_and_back(data):
    space = problem_space()
    positions = [data.draw(st.integers(0, len(d.options) - 1)) for d in space.decisions]
    canonical = space.canonical(positions)
    assert space.canonical(canonical) == canonical
    assert space.encode(space.decode(positions)) == canonical
    assert space.decode(canonical) == space.decode(positions)


def problem_space():
    return space_of(NETWORK, depth=True)


def test_the_cheapest_completion_with_plain_layers_is_that_of_brute_force(latency):
    completion = completion_of(latency, depth=True)
    rows = np.array([r for r in everything(completion.space) if completion.canonical(r) == [*r]])
    latency_s = completion.latency_s(rows)
    for decided in ([], [0], [2, 0], [1, 0, 1]):
        alike = (rows[:, : len(decided)] == decided).all(axis=1)
        options = range(len(completion.decisions[len(decided)].options))
        for option, found in zip(options, completion.cheapest_s(decided), strict=True):
            those = latency_s[alike & (rows[:, len(decided)] == option)]
            if len(those):
                assert found == pytest.approx(those.min())
            else:  # a width that the removed layer's group cannot have
                assert found > completion.model.dense_s
    assert completion.latency_s([completion.positions(completion.fastest())])[0] == pytest.approx(
        latency_s.min()
    )


@pytest.mark.parametrize("method", ["thompson", "greedy", "random", "knapsack"])
def test_searches_remove_plain_layers_and_meet_the_budget(latency, method):
    budget_s = 0.5 * latency.dense_s
    values = {g.name: np.arange(g.width) for g in NETWORK.groups} | {
        NETWORK.key_of(name): [1e-3] for name in PLAIN
    }
    problem = problem_of(latency, budget_s, depth=True, episodes=12, importance=lambda: values)
    asked = search(method, problem, lambda a: 1 - 0.01 * len(a.removed))
    assert any(each.removed for each in asked)
    within = [a for a in asked if latency.latency_s(a) <= budget_s * (1 + 1e-6)]
    assert within
    assert all(true_s(NETWORK, a) <= budget_s * (1 + 1e-4) for a in within)


# -- criteria --------------------------------------------------------------------------------------


def judged(name, traced=VGG, images=IMAGES, removed=()):
    return LAYER_CRITERIA[name](traced, images, CLASSIFIED, removed)


def test_weight_magnitude_is_the_mean_over_filters_of_their_squared_weights():
    weight = VGG.module.get_submodule("6").weight.detach()
    expected = (weight**2).sum() / 8
    assert judged("weight_magnitude", images=None)["6"] == pytest.approx(float(expected))


def test_batch_norm_is_the_mean_scale():
    scale = VGG.module.get_submodule("7").weight.detach()
    assert judged("batch_norm", images=None)["6"] == pytest.approx(float(scale.abs().mean()))


class Few:
    """The first images of a set."""

    def __init__(self, images, count):
        self.images, self.count = images, count

    def __len__(self):
        return self.count

    def batch(self, indices, seed=None):
        return self.images.batch(indices, seed)


def test_weight_taylor_is_the_squared_change_of_the_loss_by_each_weight():
    few, model = Few(IMAGES, 20), tiny_vgg()
    x, labels = few.batch(torch.arange(20))
    nn.functional.cross_entropy(model(x), labels).backward()
    expected = ((model[6].weight.detach() * model[6].weight.grad) ** 2).sum() / 8
    assert judged("weight_taylor", images=few)["6"] == pytest.approx(float(expected), rel=1e-4)


class Gated(nn.Module):
    """The toy with a gate on every channel behind a BatchNorm."""

    def __init__(self, behind):
        super().__init__()
        self.model, self.behind = tiny_vgg(), behind
        self.gate = nn.Parameter(torch.ones(8))

    def forward(self, x):
        for index, layer in enumerate(self.model):
            x = layer(x)
            if index == self.behind:
                self.map = x
                x.retain_grad()
                x = x * self.gate[:, None, None]
        return x


@pytest.mark.parametrize("layer", ["6", "10"])
def test_gates_and_feature_maps_are_judged_by_what_a_gate_would_do(layer):
    few, gated = Few(IMAGES, 20), Gated(int(layer) + 1)
    x, labels = few.batch(torch.arange(20))
    nn.functional.cross_entropy(gated(x), labels).backward()
    expected = (gated.gate.grad**2).mean()
    assert judged("gate_taylor", images=few)[layer] == pytest.approx(float(expected), rel=1e-3)
    change = (gated.map * gated.map.grad).mean((2, 3)).abs().sum(0)
    mean = float((change / change.norm()).mean())
    assert judged("feature_map_taylor", images=few)[layer] == pytest.approx(mean, rel=1e-3)


def test_imprinting_is_the_accuracy_that_a_layer_adds():
    model = tiny_vgg()
    with torch.no_grad():
        model[13].weight.zero_()  # nothing is left behind it to tell classes by
    traced = trace(model, (1, 8, 8), "blind")
    scores = imprinting(traced, traced.network.blocks, IMAGES, CLASSIFIED)
    assert min(scores, key=scores.get) == "13"
    assert scores["13"] < -0.1
    assert all(-1 <= score <= 1 for score in scores.values())


def test_the_ensemble_adds_up_ranks():
    every = [judged(name) for name in LAYER_CRITERIA if name != "ensemble"]
    ranks = [sorted(scores.values()) for scores in every]
    expected = {
        name: sum(rank.index(scores[name]) + 1 for rank, scores in zip(ranks, every, strict=True))
        for name in PLAIN
    }
    assert judged("ensemble") == expected


@pytest.mark.parametrize("name", LAYER_CRITERIA)
def test_what_is_left_is_judged_without_what_was_removed(name):
    whole = {group.name: torch.arange(group.width) for group in VGG.network.groups}
    small = replace(VGG, module=cut(VGG, Architecture(removed=("6",)), whole))
    scores = judged(name, small, removed=("6",))
    assert [*scores] == ["3", "10", "13"]
    assert all(np.isfinite(score) for score in scores.values())


def test_criteria_that_need_images_say_so_and_others_do_without():
    for name, criterion in LAYER_CRITERIA.items():
        if criterion.needs_images:
            with pytest.raises(RunError, match=f"--layer-criterion {name} needs training images"):
                judged(name, images=None)
        else:
            assert [*judged(name, images=None)] == PLAIN


def test_a_layer_that_a_criterion_cannot_judge_is_named():
    traced = trace(Outside("as it is").eval(), (1, 8, 8), "bare")
    with pytest.raises(SearchError, match="batch_norm: second has no layer that it can judge"):
        judged("batch_norm", traced)


def test_blocks_with_shortcuts_are_judged_by_the_convolutions_inside():
    traced = trace(tiny_resnet(), (1, 8, 8), "tiny")
    first = traced.network.blocks[0]
    weights = [traced.module.get_submodule(n).weight for n in first.layers]
    expected = np.mean([float((w**2).sum() / len(w)) for w in weights])
    assert judged("weight_magnitude", traced)[first.name] == pytest.approx(expected)


def test_groups_that_no_judged_layer_writes_are_named():
    traced = trace(Outside("as it is").eval(), (1, 8, 8), "bare")
    criterion = LAYER_CRITERIA["batch_norm"]
    with pytest.raises(SearchError, match="cannot judge the filters of first"):
        of_groups_and_blocks(traced, criterion.of_channels(traced, None, CLASSIFIED))


class Deep(nn.Module):
    """A transposed convolution and a linear layer with widths to choose."""

    def __init__(self):
        super().__init__()
        self.up = nn.ConvTranspose2d(1, 6, 2, stride=2)
        self.conv = nn.Conv2d(6, 4, 3)
        self.hidden, self.head = nn.Linear(4, 12), nn.Linear(12, 10)

    def forward(self, x):
        x = torch.relu(self.conv(torch.relu(self.up(x)))).mean((2, 3))
        return self.head(torch.relu(self.hidden(x)))


@pytest.mark.parametrize(
    "name", ["weight_magnitude", "weight_taylor", "gate_taylor", "feature_map_taylor"]
)
def test_filters_of_every_kind_of_layer_are_judged(name):
    torch.manual_seed(0)
    traced = trace(Deep().eval(), (1, 8, 8), "deep")
    channels = LAYER_CRITERIA[name].of_channels(traced, Few(IMAGES, 20), CLASSIFIED)
    found = of_groups_and_blocks(traced, channels)
    assert {group: len(values) for group, values in found.items()} == {
        "up": 6, "conv": 4, "hidden": 12,
    }  # fmt: skip
    assert all(float(values.sum()) > 0 for values in found.values())


@pytest.mark.parametrize("criterion", ["l1", "l2", "fpgm", "batch_norm", "taylor"])
def test_channel_criteria_judge_a_transposed_convolution_by_its_filters(criterion):
    traced = trace(Deep().eval(), (1, 8, 8), "deep")
    scores = CRITERIA[criterion].rank(traced, IMAGES, CLASSIFIED)
    assert {group: len(values) for group, values in scores.items()} == {
        "up": 6, "conv": 4, "hidden": 12,
    }  # fmt: skip
    assert len(coupled_magnitude(traced)["up"]) == 6


def test_filters_scores_are_those_of_groups_and_blocks():
    criterion = LAYER_CRITERIA["weight_magnitude"]
    found = of_groups_and_blocks(VGG, criterion.of_channels(VGG, None, CLASSIFIED))
    assert {*found} == {*VGG.network.group, "block 3", "block 6", "10", "block 13"}
    assert float(found["10"]) > 0  # a depthwise layer decides no channels, and is worth something
    with pytest.raises(RunError, match="imprinting scores layers, not their filters"):
        LAYER_CRITERIA["imprinting"].of_channels(VGG, IMAGES, CLASSIFIED)


# -- the method ------------------------------------------------------------------------------------

SCORES = {"3": 0.4, "6": 0.1, "10": 0.3, "13": 0.2}


def layer_search(latency, budget_s, scores, **own):
    problem = problem_of(latency, budget_s, depth=True, layer_scores=scores)
    (found,) = search("layerprune", problem, lambda _: 0.5, **own)
    return found


def test_the_least_important_layers_go_until_the_budget_is_met(latency):
    dense = NETWORK.dense.widths
    for gone in (("6",), ("6", "13"), ("6", "13", "10")):
        budget_s = true_s(NETWORK, Architecture(removed=gone))
        found = layer_search(latency, budget_s * 1.0001, lambda *_: SCORES)
        assert {*found.removed} == {*gone}
        assert found.widths == dense


def test_layers_are_judged_again_after_each_removal_where_that_is_asked_for(latency):
    asked = []

    def scores(criterion, removed):
        asked.append((criterion, tuple(removed)))
        return SCORES if not removed else {"3": 0.0, "10": 0.3, "13": 0.2}

    budget_s = true_s(NETWORK, Architecture(removed=("6", "3"))) * 1.0001
    found = layer_search(latency, budget_s, scores, iterative=True, layer_criterion="weight_taylor")
    assert {*found.removed} == {"6", "3"}
    assert asked == [("weight_taylor", ()), ("weight_taylor", ("6",))]


def test_tied_groups_have_one_menu_where_layers_may_go():
    menus = {"0": (2, 4, 8), "3": (4, 6, 8), "6": (2, 4, 6, 8), "13": (8,)}
    found = _in_common(NETWORK, menus)
    assert found == {"0": (4, 8), "3": (4, 8), "6": (4, 8), "13": (8,)}
    apart = _in_common(NETWORK, menus | {"3": (3, 5, 7, 8), "0": (2, 4, 6, 8)})
    assert apart["0"] == apart["3"] == apart["6"]
    assert len(apart["0"]) >= 3


def test_blocks_that_stay_are_not_decided(latency):
    space = SearchSpace.of(fixed(), (Kind.WIDTH, Kind.BLOCK), stay={"6"})
    assert [d.name for d in space.decisions if d.is_block] == ["3", "10", "13"]
    fastest = Completion(latency.with_menu(fixed()), space).fastest()
    assert {*fastest.removed} == {"3", "10", "13"}


def fixed():
    return NETWORK.with_menu({group.name: (group.width,) for group in NETWORK.groups})
