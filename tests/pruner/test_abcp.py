"""ABCP's controller: one sample of blocks and ratios, its probability, what it means, learning."""

import math

import numpy as np
import pytest
import torch

from lookup_tables.model.latency_model import LatencyModel
from pruner.search.methods.abcp import (
    ENTROPY_BONUS,
    MOST_PRUNED,
    AbcpSettings,
    Controller,
    Walk,
    _Learner,
    _Samples,
)
from pruner.search.space import KEPT, REMOVED
from tests.searching import problem_of, search
from tests.toys import chain, synthetic_table, tiny_network

TINY = tiny_network()
CHAIN = chain(16, 32, 16, 8)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return LatencyModel(TINY, synthetic_table(tmp_path_factory.mktemp("t") / "t", TINY, levels=4))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return LatencyModel(CHAIN, synthetic_table(tmp_path_factory.mktemp("t") / "t", CHAIN, levels=8))


def problem_for(latency, speedup=1.5, depth=True, **fields):
    ones = {g.name: np.ones(g.width) for g in latency.network.groups}
    blocks = {b.name: np.ones(1) for b in latency.network.blocks}
    fields = {"importance": lambda: ones | blocks, "episodes": 20} | fields
    return problem_of(latency, latency.dense_s / speedup, depth, **fields)


def random(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_walk_meets_a_block_before_what_is_in_it_and_every_convolution_once(tiny):
    walk = Walk(problem_for(tiny))
    blocks = [step.decision for step in walk.steps if step.is_block]
    assert len(blocks) == len(set(blocks)) == len(TINY.blocks)
    met = set()
    for step in walk.steps:
        assert step.block is None or step.block in met
        met.add(step.decision)
    writers = [layer for layer in TINY.layers if layer.group and layer.channels]
    assert sum(not step.is_block for step in walk.steps) == len(writers)


def test_in_a_removed_block_nothing_is_drawn(tiny):
    walk = Walk(problem_for(tiny))
    drawn = walk.draw(Controller(random()), random(1), 40)
    assert {0.0, 1.0} >= set(drawn.values[walk.are_blocks.numpy()].ravel()) - {np.nan}
    at = {step.decision: number for number, step in enumerate(walk.steps) if step.is_block}
    gone = 0
    for number, step in enumerate(walk.steps):
        is_gone = (
            np.zeros(40, bool) if step.block is None else drawn.values[at[step.block]] == REMOVED
        )
        assert (np.isnan(drawn.values[number]) == is_gone).all()
        gone += is_gone.sum()
    assert gone > 0


def test_the_joint_probability_is_that_of_every_step_that_was_drawn():
    controller = Controller(random())
    values = torch.tensor([[float(KEPT), float(REMOVED)], [0.3, math.nan], [1.4, -0.2]])
    are_blocks = torch.tensor([True, False, False])
    found, _ = controller.joint(values, are_blocks)
    for column, here in ((0, (0, 1, 2)), (1, (0, 2))):
        told, state, expected = controller.begins.expand(1, -1), None, 0.0
        for step in range(3):
            read, state = controller.cell(told[None], state)
            value = values[step, column : column + 1]
            if step == 0:
                keeps = controller.logit(read[0]).sigmoid()
                chance = keeps if value == KEPT else 1 - keeps
                expected += float(chance.detach().log())
            elif step in here:
                mean, spread = controller.ratio(read[0])
                density = (
                    -((value - mean) ** 2) / (2 * spread**2)
                    - (spread * math.sqrt(2 * math.pi)).log()
                )
                expected += float(density.detach())  # of 1.4 as it was drawn, not as it is clipped
            told = controller.told(value, torch.tensor(step == 0))
        assert float(found[column].detach()) == pytest.approx(expected, abs=1e-4)


def test_the_probability_hears_every_step(tiny):
    walk = Walk(problem_for(tiny))
    controller = Controller(random())
    drawn = torch.tensor(walk.draw(controller, random(1), 8).values)
    drawn.requires_grad_()
    controller.joint(drawn, walk.are_blocks)[0].sum().backward()
    of_ratios = ~drawn.isnan() & ~walk.are_blocks[:, None]
    assert (drawn.grad[of_ratios] != 0).all()
    for number in walk.are_blocks.nonzero().flatten().tolist():
        other = drawn.detach().clone()
        other[number] = 1 - other[number]
        before, after = (controller.joint(d, walk.are_blocks)[0] for d in (drawn, other))
        assert (before != after).all()


def test_what_was_better_than_the_baseline_becomes_more_probable(tiny):
    walk = Walk(problem_for(tiny))
    learner = _Learner(walk, 1e-3, seed=0)
    drawn = walk.draw(learner.controller, learner.random, 2)
    values = torch.tensor(drawn.values)

    def probable():
        with torch.no_grad():
            return learner.controller.joint(values, walk.are_blocks)[0]

    before = probable()
    learner.learn(drawn, np.array([1.0, 0.0]), 0.5)
    gained = probable() - before
    assert gained[0] > gained[1]
    assert ENTROPY_BONUS == 1e-4


def test_convolutions_of_one_stage_take_the_widest_share_that_one_drew(tiny):
    walk = Walk(problem_for(tiny))
    shared = [step.decision for step in walk.steps if not step.is_block]
    stage = next(d for d in shared if shared.count(d) > 1)
    values = np.full((len(walk.steps), 1), 0.5)
    members = [n for n, step in enumerate(walk.steps) if step.decision == stage]
    for number, step in enumerate(walk.steps):
        values[number] = KEPT if step.is_block else 0.5
    values[members[-1]] = 0.0
    kept = walk.meant(_Samples(values, np.full_like(values, 0.5)))[0]
    decisions = walk.completion.decisions
    assert decisions[stage].options[kept[stage]] == decisions[stage].full
    other = next(d for d in shared if d != stage)
    assert decisions[other].options[kept[other]] == pytest.approx(
        0.5 * decisions[other].full, abs=decisions[other].full / 8
    )


def test_ratios_are_clipped_to_what_the_paper_allows(plain):
    walk = Walk(problem_for(plain, depth=False))
    values = np.full((len(walk.steps), 2), 7.0)
    values[:, 1] = -3.0
    most, none = walk.meant(_Samples(values, np.full_like(values, np.nan)))
    decisions = walk.completion.decisions
    for i, decision in enumerate(decisions):
        nearest = min(decision.options, key=lambda o: abs(o / decision.full - (1 - MOST_PRUNED)))
        assert decision.options[most[i]] == nearest
        assert decision.options[none[i]] == decision.full


@pytest.mark.parametrize("speedup", [1.2, 1.6, 2.5])
@pytest.mark.parametrize("depth", [True, False])
def test_every_candidate_meets_the_budget(tiny, speedup, depth):
    problem = problem_for(tiny, speedup, depth)
    asked = search("abcp", problem, lambda a: 0.5)
    assert len(asked) == 20
    assert all(tiny.latency_s(a) <= problem.budget_s * (1 + 1e-9) for a in asked)
    assert len({a.model_dump_json() for a in asked}) > 1


def test_where_blocks_must_go_the_least_sure_ones_go(tiny):
    narrowest = problem_for(tiny, 1.0, depth=False).completion
    fastest_s = tiny.latency_s(narrowest.fastest())
    problem = problem_for(tiny, tiny.dense_s / (0.9 * fastest_s))
    asked = search("abcp", problem, lambda a: 0.5)
    assert all(a.removed for a in asked)
    assert all(tiny.latency_s(a) <= problem.budget_s * (1 + 1e-9) for a in asked)


def test_of_the_blocks_the_least_sure_one_goes(tiny):
    walk = Walk(problem_for(tiny))
    keeps = np.full((len(walk.steps), 1), np.nan)
    blocks = [n for n, step in enumerate(walk.steps) if step.is_block]
    for number, sure in zip(blocks, (0.7, 0.2, 0.9), strict=True):
        keeps[number] = sure
    options = np.full((1, len(walk.completion.decisions)), KEPT)
    samples = _Samples(np.full_like(keeps, KEPT), keeps)
    gone = []
    while walk._give_up_a_block(samples, options, 0):
        gone.append([walk.steps[n].decision for n in blocks
                     if options[0, walk.steps[n].decision] == REMOVED])  # fmt: skip
    first, second, third = (walk.steps[blocks[i]].decision for i in (1, 0, 2))
    assert gone == [[first], sorted([first, second]), sorted([first, second, third])]


def test_with_seconds_in_the_reward_nothing_is_scaled_and_the_last_candidate_fits(tiny):
    problem = problem_for(tiny, 2.0)
    *asked, last = search("abcp", problem, lambda a: 0.5, price="reward")
    assert len(asked) == problem.episodes - 1
    assert any(tiny.latency_s(a) > problem.budget_s for a in asked)
    assert tiny.latency_s(last) <= problem.budget_s * (1 + 1e-9)


@pytest.mark.parametrize("at_once", [1, 4])
def test_the_same_seed_draws_the_same_candidates(tiny, at_once):
    def score(architecture):
        return 0.9 - 0.1 * len(architecture.removed)

    first, again, other = (
        search("abcp", problem_for(tiny, seed=seed, episodes=6, at_once=at_once), score)
        for seed in (0, 0, 1)
    )
    assert first == again != other
    assert all(tiny.latency_s(a) <= tiny.dense_s / 1.5 * (1 + 1e-9) for a in first)


def test_it_learns_what_is_rewarded(tiny):
    """Blocks that stay: after forty updates nearly all do, by halves before."""
    walk = Walk(problem_for(tiny))
    learner = _Learner(walk, 0.01, seed=0)
    shares = []
    for _ in range(40):
        drawn = walk.draw(learner.controller, learner.random, 16)
        stayed = (drawn.values[walk.are_blocks.numpy()] == KEPT).mean(axis=0)
        learner.learn(drawn, stayed, learner.moving_baseline(stayed))
        shares.append(stayed.mean())
    assert np.mean(shares[:5]) < 0.65 < 0.8 < np.mean(shares[-5:])


def test_its_settings_are_the_published_ones_unless_told_otherwise():
    assert AbcpSettings().model_dump() == {
        "price": "budget", "controller_rate": 1e-3,
    }  # fmt: skip
