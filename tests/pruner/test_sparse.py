"""Densities beside widths and blocks: searched, masked, refitted, trained."""

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lookup_tables.architecture import Architecture
from lookup_tables.model.latency_model import DENSITIES, LatencyModel
from lookup_tables.model.staircase import Staircase
from pruner import RunError
from pruner.criteria.masks import MASKS, magnitude, second_order
from pruner.criteria.taylor import _hundredths, importance, weights_importance
from pruner.data import load_data
from pruner.graph.compensation import Reconstruction
from pruner.graph.masks import Thinning, Weighed, masks_of
from pruner.graph.surgery import cut, keep_best
from pruner.graph.trace import trace
from pruner.run.settings import Settings
from pruner.search.completion import Completion
from pruner.search.knapsack import worth
from pruner.search.methods import METHODS
from pruner.search.problem import SearchProblem
from pruner.search.searcher import Scored, Searcher
from pruner.search.space import Kind, SearchSpace
from pruner.train.finetune import Recipe, fine_tune
from pruner.train.sparsity import (
    SCHEDULES,
    Admm,
    BlockShape,
    Gradual,
    Held,
    StraightThrough,
    keep_highest,
    places_of,
)  # fmt: skip
from pruner.train.tasks.classification import CLASSIFIED
from tests.searching import QUICK
from tests.toys import SPARSE_DEVICE, by_kept_weights, synthetic_table, tiny_network, tiny_resnet

NETWORK = tiny_network()
NETWORK = NETWORK.with_menu({g.name: (g.width // 2, g.width) for g in NETWORK.groups})
IMAGES = load_data("digits").train
FEW = dict.fromkeys(NETWORK.sparse_layers[:3], (0.2, 1.0))


@pytest.fixture(scope="module")
def latency(tmp_path_factory):
    folder = tmp_path_factory.mktemp("t") / "t"
    table = synthetic_table(folder, NETWORK, by_kept_weights, levels=2, device=SPARSE_DEVICE)
    return LatencyModel(NETWORK, table)


@pytest.fixture(scope="module")
def completion(latency):
    return Completion(latency, SearchSpace.of(NETWORK, [*Kind], FEW))


# -- the search --------------------------------------------------------------------------------


def test_positions_with_densities_cost_what_the_architecture_costs(completion, latency):
    rows = [*product(*(range(len(d.options)) for d in completion.decisions))][::37]
    expected = [latency.latency_s(completion.architecture(row)) for row in rows]
    assert completion.latency_s(rows) == pytest.approx(expected)
    for row in rows:
        added = completion.constant_s + sum(factor.at(row) for factor in completion.factors())
        assert added == pytest.approx(latency.latency_s(completion.architecture(row)))


def test_the_cheapest_completion_with_densities_is_that_of_brute_force(completion):
    rows = np.array([*product(*(range(len(d.options)) for d in completion.decisions))])
    latency_s = completion.latency_s(rows)
    for decided in ([], [1], [1, 0], [0, 1, 1]):
        alike = (rows[:, : len(decided)] == decided).all(axis=1)
        options = range(len(completion.decisions[len(decided)].options))
        expected = [latency_s[alike & (rows[:, len(decided)] == o)].min() for o in options]
        assert completion.cheapest_s(decided) == pytest.approx(expected)


def test_a_search_of_widths_alone_keeps_all_weights(latency):
    completion = Completion(latency, SearchSpace.of(NETWORK, {Kind.WIDTH}))
    rows = [[0] * len(completion.decisions)]
    narrow = completion.architecture(rows[0])
    assert not narrow.density
    assert completion.latency_s(rows)[0] == pytest.approx(latency.latency_s(narrow))


SPARSE = [name for name, method in METHODS.items() if Kind.DENSITY in method.decides]


@pytest.mark.parametrize("name", SPARSE)
@pytest.mark.parametrize("speedup", [1.3, 1.7])
def test_every_method_that_leaves_out_weights_meets_the_budget(latency, name, speedup):
    method = METHODS[name]
    own = method.settings(**QUICK.get(name, {}))
    densities = Staircase(latency).densities()
    space = SearchSpace.of(NETWORK, method.kinds(depth=True, density=True), densities)
    rng = np.random.default_rng(0)
    problem = SearchProblem(
        space, latency, latency.dense_s / speedup, episodes=12,
        importance=lambda: {
            **{g.name: np.ones(g.width) for g in NETWORK.groups},
            **{b.name: np.ones(1) for b in NETWORK.blocks},
        },
        weights_importance=lambda: {n: rng.random(100) for n in NETWORK.sparse_layers},
        magnitudes=lambda: {g.name: np.ones(g.width) for g in NETWORK.groups},
    )  # fmt: skip
    searcher, asked = Searcher(method.make(problem, own)), []
    while batch := searcher.ask(1):
        asked += batch
        searcher.tell([Scored(a, 0.5, latency.latency_s(a)) for a in batch])
    last = asked[-1] if method.scores_one or name == "greedy" else min(asked, key=latency.latency_s)
    assert latency.latency_s(last) <= problem.budget_s * (1 + 1e-6)
    assert any(architecture.density for architecture in asked) or name == "uniform"


def test_only_densities_that_save_time_are_offered(latency):
    offered = Staircase(latency).densities()
    assert set(offered) <= set(NETWORK.sparse_layers)
    for name, options in offered.items():
        assert options[-1] == 1.0
        assert set(options) <= set(DENSITIES)
        costs = [latency.latency_s(Architecture(density={name: d})) for d in options]
        assert (np.diff(costs) > 0).all()


def test_a_density_is_worth_its_most_important_weights(completion):
    curve = np.linspace(2, 0, 100)
    problem = SearchProblem(
        completion.space, completion.model, 1.0,
        importance=lambda: {
            **{g.name: np.ones(g.width) for g in NETWORK.groups},
            **{b.name: np.ones(1) for b in NETWORK.blocks},
        },
        weights_importance=lambda: dict.fromkeys(NETWORK.sparse_layers, curve),
    )  # fmt: skip
    for decision, value in zip(completion.decisions, worth(completion, problem), strict=True):
        if decision.kind is Kind.DENSITY:
            share = curve[:20].sum() / curve.sum()
            assert value[0] / value[1] == pytest.approx(share, rel=0.02)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": "amc", "density": True}, "amc never leaves out weights"),
        ({"widths": False}, "give --depth or --density too"),
        ({"mask": "luck"}, "--mask 'luck' is unknown"),
        ({"density": True, "criterion": "dynamic"}, "trains while it selects"),
        ({"schedule": "gradual", "patience": 3}, "drop --patience"),
        ({"schedule": "admm", "epochs": 0}, "drop --epochs 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, said):
    words = {"model": "m", "weights": "w", "data": "digits", "table": "t", "speedup": 2.0}
    with pytest.raises(RunError, match=said):
        Settings.of(**(words | changes))


# -- masks -------------------------------------------------------------------------------------


FOURS = BlockShape(4)  # of output channels


def test_blocks_add_up_their_filters_the_last_one_what_is_left():
    values = torch.tensor([[1.0, 2], [3, 4], [5, 6]])
    assert BlockShape(2).sums(values, 1).tolist() == [[4, 6], [5, 6]]


def test_blocks_of_neighbouring_inputs_add_up_what_is_at_one_place():
    weight = torch.arange(1.0, 13).reshape(2, 3, 1, 2)  # two filters, three channels, two places
    block = BlockShape(2, 2)
    sums = block.sums(weight.flatten(1), places_of(weight))
    assert sums.tolist() == [[1 + 3 + 7 + 9, 2 + 4 + 8 + 10, 5 + 11, 6 + 12]]
    kept = torch.tensor([[True, False, False, True]])
    mask = block.whole(kept, weight)[0, :, 0]
    assert mask.tolist() == [[True, False], [True, False], [False, True]]


@given(
    st.integers(1, 20), st.integers(1, 9), st.sampled_from([1, 3, 9]),
    st.sampled_from([1, 4, 16]), st.sampled_from([1, 4]),
)  # fmt: skip
def test_a_mask_keeps_whole_blocks_and_its_sums_say_which(filters, channels, places, out, together):
    block = BlockShape(out, together)
    weight = torch.ones(filters, channels, places, 1)
    taps = -(-channels // together) * places
    generator = torch.Generator().manual_seed(0)
    kept = torch.rand(-(-filters // out), taps, generator=generator) < 0.5
    mask = block.whole(kept, weight)
    assert mask.shape == weight.shape
    assert torch.equal(block.sums(mask.flatten(1).float(), places) > 0, kept)
    whole = block.sums(torch.ones(filters, channels * places), places)
    assert torch.equal(block.sums(mask.flatten(1).float(), places), whole * kept)


@given(st.integers(1, 30), st.integers(1, 30), st.floats(0.01, 1))
def test_the_share_of_highest_scores_stays(rows, columns, density):
    scores = torch.rand(rows, columns, generator=torch.Generator().manual_seed(0))
    kept = keep_highest(scores, density)
    assert int(kept.sum()) == max(1, round(density * scores.numel()))
    if not kept.all():
        assert scores[kept].min() >= scores[~kept].max()


def test_an_equal_sum_is_split_into_hundredths_from_the_greatest_on():
    parts = _hundredths(torch.tensor([0.0, 3.0, 1.0]))
    assert len(parts) == 100
    assert parts.sum() == pytest.approx(4.0)
    assert (parts.diff() <= 1e-6).all()


def weighed(weight, gram):
    count = weight.shape[1]
    return Weighed("x", weight, gram, torch.ones(len(weight)), torch.arange(len(weight)),
                   torch.arange(count), 1, BlockShape(1))  # fmt: skip


def test_of_two_inputs_that_say_the_same_either_can_go_by_second_order():
    x = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
    inputs = torch.stack([x[:, 0], x[:, 0] + 0.01 * x[:, 1], x[:, 1]], dim=1)
    layer = weighed(torch.tensor([[1.0, 1.0, 0.5]]), inputs.T @ inputs / len(inputs))
    (scores,) = second_order(layer)
    assert scores[2] > 10 * scores[:2].min(), "what others can stand in for is worth little"
    assert magnitude(layer)[0].argmin() == 2


@given(st.integers(1, 12), st.integers(1, 5), st.sampled_from([1, 4]), st.integers(0, 9))
@settings(deadline=None)
def test_the_tap_that_goes_first_from_a_block_leaves_the_least_error(
    channels, filters, together, seed
):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(400, channels, generator=generator)
    x = x @ torch.randn(channels, channels, generator=generator)
    weight = torch.randn(filters, channels, generator=generator)
    layer = Weighed(
        "x", weight, x.T @ x / len(x), torch.ones(filters), torch.arange(filters),
        torch.arange(channels), 1, BlockShape(filters, together),
    )  # fmt: skip
    sums = layer.block.sums(second_order(layer), 1)[0]
    assert (sums > 0).all()
    taps = layer.block.taps(channels, 1)

    def error(kept):
        gram = layer.gram + 1e-2 * layer.gram.diagonal().mean() * torch.eye(channels)
        fitted = torch.linalg.solve(gram[kept][:, kept], gram[kept] @ weight.T)
        return float((weight @ gram @ weight.T).trace() - (fitted * (gram[kept] @ weight.T)).sum())

    without = [error(torch.tensor([i for i in range(channels) if i not in tap.tolist()], dtype=int))
               for tap in taps]  # fmt: skip
    gone_first = [e for e, s in zip(without, sums, strict=True) if s <= sums.min() * (1 + 1e-5)]
    assert min(gone_first) <= min(without) * (1 + 1e-3) + 1e-4


def test_taps_that_say_the_same_do_not_all_go():
    x = torch.randn(500, 1, generator=torch.Generator().manual_seed(0))
    inputs = torch.cat([x.expand(-1, 4), torch.randn(500, 1) * 0.1], dim=1)
    inputs += 0.01 * torch.randn(500, 5, generator=torch.Generator().manual_seed(1))
    layer = weighed(torch.tensor([[1.0, 1.0, 1.0, 1.0, 1.0]]), inputs.T @ inputs / len(inputs))
    (scores,) = second_order(layer)
    assert scores[:4].max() > 10 * scores[4], "one of the four must stand for all of them"


def pruned(density, block=FOURS, judge=second_order):
    torch.manual_seed(0)
    traced = trace(tiny_resnet().eval(), (1, 8, 8), "tiny")
    names = traced.network.sparse_layers
    architecture = Architecture(density=dict.fromkeys(names, density))
    kept = {g.name: torch.arange(g.width) for g in traced.network.groups}
    thinning = Thinning(architecture.density, block, judge)
    refitted = Reconstruction(traced, IMAGES).refit(kept, (), thinning)
    return traced, architecture, cut(refitted, architecture, kept)


@pytest.mark.parametrize("judge", [second_order, magnitude])
def test_of_every_sparse_layer_whole_taps_of_blocks_are_left_out(judge):
    _, architecture, model = pruned(0.3, judge=judge)
    for name in architecture.density:
        weight = model.get_submodule(name).weight.detach()
        kept = (weight.flatten(1) != 0).reshape(-1, 4, weight[0].numel()).sum(dim=1)
        assert set(kept.unique().tolist()) <= {0, 4}
        assert float((kept > 0).float().mean()) == pytest.approx(0.3, abs=0.02)


def test_what_stays_is_fitted_to_what_the_dense_network_wrote():
    traced, architecture, refitted = pruned(0.5)
    plain = trace(tiny_resnet().eval(), (1, 8, 8), "tiny").module
    plain.load_state_dict(traced.module.state_dict())
    for name, mask in masks_of(refitted, architecture, FOURS).items():
        layer = plain.get_submodule(name)
        layer.weight.data *= mask
    x, _ = IMAGES.batch(torch.arange(64))
    with torch.no_grad():
        dense, lost, left = (m.eval()(x) for m in (traced.module, plain, refitted))
    assert (left - dense).pow(2).mean() < 0.5 * (lost - dense).pow(2).mean()


def test_narrow_and_sparse_at_once_count_blocks_of_the_channels_that_stay():
    torch.manual_seed(0)
    traced = trace(tiny_resnet().eval(), (1, 8, 8), "tiny")
    name = "layer1.0.conv1"
    architecture = Architecture(widths={name: 6}, density={name: 0.5, "layer1.0.conv2": 0.5})
    scores = {g.name: torch.rand(g.width) for g in traced.network.groups}
    kept = keep_best(traced.network, architecture, scores)
    thinning = Thinning(architecture.density, FOURS, second_order)
    model = cut(Reconstruction(traced, IMAGES).refit(kept, (), thinning), architecture, kept)
    weight = model.get_submodule(name).weight.detach()
    assert weight.shape[0] == 6
    masks = masks_of(model, architecture, FOURS)
    assert masks[name].shape == weight.shape
    blocks = FOURS.sums((weight != 0).flatten(1).float(), places_of(weight))
    assert set(blocks[0].unique().tolist()) <= {0, 4}
    assert set(blocks[1].unique().tolist()) <= {0, 2}, "the last block has two filters"


def test_removed_blocks_and_sparse_heirs_go_together():
    torch.manual_seed(0)
    traced = trace(tiny_resnet().eval(), (1, 8, 8), "tiny")
    gone = traced.network.blocks[-1]
    names = [n for n in traced.network.sparse_layers if n not in gone.layers]
    architecture = Architecture(removed=(gone.name,), density=dict.fromkeys(names, 0.5))
    kept = {g.name: torch.arange(g.width) for g in traced.network.groups}
    thinning = Thinning(architecture.density, FOURS, second_order)
    refitted = Reconstruction(traced, IMAGES).refit(kept, architecture.removed, thinning)
    model = cut(refitted, architecture, kept)
    x, _ = IMAGES.batch(torch.arange(32))
    assert torch.isfinite(model.eval()(x)).all()
    assert set(masks_of(model, architecture, FOURS)) == set(names)


@pytest.mark.parametrize("known", [True, False], ids=["with moments", "without"])
@pytest.mark.parametrize("name", [*MASKS])
def test_every_criterion_scores_every_weight(name, known):
    torch.manual_seed(0)
    traced = trace(tiny_resnet().eval(), (1, 8, 8), "tiny")
    judge = MASKS[name].make(traced, IMAGES, CLASSIFIED)
    path = traced.network.sparse_layers[0]
    weight = traced.module.get_submodule(path).weight.detach().flatten(1)
    gram = torch.eye(weight.shape[1]) if known else None
    layer = Weighed(path, weight, gram, torch.ones(len(weight)),
                    torch.arange(len(weight)), torch.arange(weight.shape[1]), 9, FOURS)  # fmt: skip
    scores = judge(layer)
    assert scores.shape == weight.shape
    assert (scores >= 0).all()
    assert scores.max() > 0


def test_weights_are_worth_what_their_layers_are_on_the_same_scale():
    torch.manual_seed(0)
    traced = trace(tiny_resnet().eval(), (1, 8, 8), "tiny")
    of_weights = weights_importance(traced, IMAGES, CLASSIFIED, BlockShape(16))
    of_channels = importance(traced, IMAGES, CLASSIFIED)
    assert set(of_weights) == set(traced.network.sparse_layers)
    assert all(len(values) == 100 and (values >= 0).all() for values in of_weights.values())
    both = [sum(float(v.sum()) for v in each.values()) for each in (of_weights, of_channels)]
    assert 1e-3 < both[0] / both[1] < 1e3


# -- training ----------------------------------------------------------------------------------

RECIPE = Recipe(epochs=2, batch=128, rate=0.1, seed=3)


def trained(way, checkpoint=None, report=lambda *_: None):
    _, architecture, model = pruned(0.3)
    if way == "held":
        sparsity = Held(masks_of(model, architecture, FOURS))
    else:
        torch.manual_seed(0)
        model = trace(tiny_resnet().eval(), (1, 8, 8), "tiny").module
        sparsity = SCHEDULES[way](architecture.density, FOURS)
    fine_tune(model, IMAGES, RECIPE, checkpoint, report=report, sparsity=sparsity)
    return model, architecture


@pytest.mark.parametrize("way", ["held", *SCHEDULES])
def test_after_training_as_many_weights_are_0_as_were_asked_for(way):
    model, architecture = trained(way)
    for name, mask in masks_of(model, architecture, FOURS).items():
        weight = model.get_submodule(name).weight.detach()
        assert float(mask.float().mean()) == pytest.approx(0.3, abs=0.02)
        assert (weight[~mask] == 0).all()
        assert (weight[mask] != 0).float().mean() > 0.99


def test_what_was_left_out_before_training_is_what_is_0_after_it():
    _, architecture, before = pruned(0.3)
    masks = masks_of(before, architecture, FOURS)
    after, _ = trained("held")
    found = masks_of(after, architecture, FOURS)
    assert all(torch.equal(masks[name], found[name]) for name in masks)


@pytest.mark.parametrize(
    ("way", "at_step"), [*((way, 5) for way in ("held", *SCHEDULES)), ("gradual", 13)]
)
def test_an_interrupted_sparse_training_continues_to_the_same_weights(
    way, at_step, tmp_path, monkeypatch
):
    monkeypatch.setattr("pruner.train.finetune.SAVE_EVERY", 2)
    whole, _ = trained(way)

    def interrupt(step, total, text):
        if step == at_step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(way, tmp_path / "c.pt", interrupt)
    continued, _ = trained(way, tmp_path / "c.pt")
    pairs = zip(whole.state_dict().items(), continued.state_dict().items(), strict=True)
    assert all(torch.equal(a, b) for (_, a), (_, b) in pairs)


def test_the_share_that_stays_falls_along_a_cubic_curve():
    model = nn.Sequential(nn.Conv2d(16, 16, 3))
    leaving, seen = Gradual({"0": 0.2}, FOURS), []
    leaving.begin(model, lambda x: x, 200)
    for step in range(1, 201):
        leaving.after_step(step)
        seen.append(float((model[0].weight != 0).float().mean()))
    for step in (20, 50, 80):
        assert seen[step - 1] == pytest.approx(0.2 + 0.8 * (1 - step / 100) ** 3, abs=0.01)
    assert seen[100:] == [seen[100]] * 100
    assert seen[100] == pytest.approx(0.2, abs=0.01)
    assert (np.diff(seen) <= 0).all(), "nothing comes back"


def test_what_was_left_out_comes_back_when_it_has_learnt_to_matter():
    model = nn.Sequential(nn.Conv2d(2, 4, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([1.0, 2.0]).expand(4, 2).reshape(4, 2, 1, 1))
    leaving = StraightThrough({"0": 0.5}, FOURS)
    leaving.begin(model, lambda x: x, 8)  # until the fourth step
    kept = lambda: (model[0].weight[:, :, 0, 0] != 0).all(dim=0).tolist()  # noqa: E731
    for step in (1, 2):
        leaving.after_step(step)
    assert kept() == [False, True]
    with torch.no_grad():
        model[0].weight[:, 0] += 1.5  # a step of learning, from 0 on: all of it is 2.5 now
    leaving.after_step(3)
    assert kept() == [True, False]
    assert torch.allclose(model[0].weight[:, 0], torch.tensor(2.5))
    leaving.after_step(4)
    with torch.no_grad():
        model[0].weight[:, 1] += 9
    leaving.after_step(5)
    assert kept() == [True, False], "the choice was made in the first half"


def test_weights_are_drawn_to_the_nearest_sparse_ones_and_no_longer_once_they_are_cut():
    model = nn.Sequential(nn.Conv2d(4, 4, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.arange(1.0, 17).reshape(4, 4, 1, 1))
    drawn = Admm({"0": 0.5}, FOURS, rho=2.0)
    drawn.begin(model, lambda x: x, 100)
    taps = model[0].weight.detach().flatten(1)  # columns are taps: the last two are larger
    # The first step's target is Z - U: 0 and what the smaller ones are, once more away from it.
    expected = (2 * taps[:, :2]).pow(2).sum()
    assert drawn.penalty().item() == pytest.approx(float(expected))
    drawn.after_step(50)
    assert drawn.penalty() is None
    assert (model[0].weight.flatten(1) != 0).all(dim=0).tolist() == [False, False, True, True]


def test_masks_are_read_from_zeros_and_nothing_else():
    model = nn.Sequential(nn.Conv2d(2, 4, 1))
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[0].weight[:2, 0] = 0
        model[0].weight[2, 1] = 0  # of a block that is kept otherwise
    (mask,) = masks_of(
        model, Architecture(density={"0": 0.75, "gone": 0.5}), BlockShape(2)
    ).values()
    assert mask.flatten(1).tolist() == [[False, True], [False, True], [True, True], [True, True]]
