"""Widths and blocks decided together, on a table from a known cost."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lookup_tables.estimate import LatencyModel
from lookup_tables.network import Architecture
from pruner.choices import KEPT, REMOVED, choices
from pruner.completion import Completion
from pruner.env import PruningEnv
from pruner.problem import SearchProblem
from pruner.rewards import REWARDS
from pruner.sensitivity import latency_sensitivity
from tests.toys import synthetic_table, tiny_network

NETWORK = tiny_network()
MENU = {g.name: (g.width // 2, g.width) for g in NETWORK.groups}
NETWORK = NETWORK.with_menu(MENU)


@pytest.fixture(scope="module")
def latency(tmp_path_factory):
    return LatencyModel(
        NETWORK, synthetic_table(tmp_path_factory.mktemp("t") / "t", NETWORK, levels=2)
    )


@pytest.fixture(scope="module")
def completion(latency):
    return Completion(latency, depth=True)


def everything(completion):
    return product(*(range(len(choice.options)) for choice in completion.choices))


def test_a_block_is_decided_before_the_groups_that_go_with_it():
    decided = choices(NETWORK, depth=True)
    assert {c.name for c in decided if c.is_block} == {b.name for b in NETWORK.blocks}
    inside = [(i, c) for i, c in enumerate(decided) if c.inside is not None]
    assert inside
    for index, choice in inside:
        assert choice.inside < index
        assert decided[choice.inside].is_block


def test_without_depth_only_widths_are_decided():
    assert [c.name for c in choices(NETWORK)] == [g.name for g in NETWORK.groups]


def test_the_positions_of_an_architecture_cost_what_the_architecture_costs(completion, latency):
    rows = list(everything(completion))[::7]
    expected = [latency.latency_s(completion.architecture(row)) for row in rows]
    assert completion.latency_s(rows) == pytest.approx(expected)
    for row in rows:
        constant, factors = completion.constant_s, completion.factors()
        assert constant + sum(f.at(row) for f in factors) == pytest.approx(
            latency.latency_s(completion.architecture(row))
        )


def test_the_cheapest_completion_with_blocks_is_that_of_brute_force(completion):
    rows = np.array(list(everything(completion)))
    latency_s = completion.latency_s(rows)
    for decided in ([], [1], [1, 0], [1, 1, 0]):
        alike = (rows[:, : len(decided)] == decided).all(axis=1)
        options = range(len(completion.choices[len(decided)].options))
        expected = [
            latency_s[alike & (rows[:, len(decided)] == option)].min() for option in options
        ]
        assert completion.cheapest_s(decided) == pytest.approx(expected)


def test_what_a_removed_block_takes_with_it_keeps_its_full_name(completion):
    positions = [0] * len(completion.choices)
    architecture = completion.architecture(positions)
    assert set(architecture.removed) == {block.name for block in NETWORK.blocks}
    for choice in completion.choices:
        if choice.inside is not None:
            assert architecture.widths[choice.name] == choice.full


@given(st.lists(st.floats(0, 1), min_size=12, max_size=12), st.floats(1.2, 3.0))
@settings(deadline=None, max_examples=25)
def test_any_episode_with_blocks_meets_the_budget(completion, latency, actions, speedup):
    fastest_s = latency.latency_s(completion.fastest())
    budget_s = max(latency.dense_s / speedup, fastest_s * 1.01)
    problem = SearchProblem(NETWORK, latency, budget_s, lambda architecture: 0.5)
    env = PruningEnv(problem, completion, REWARDS["error"])
    state, _ = env.reset()
    for action in actions:
        assert env.observation_space.contains(state)
        state, _, done, _, info = env.step(np.array([action], np.float32))
        if done:
            break
    assert done
    assert latency.latency_s(info["architecture"]) <= budget_s * (1 + 1e-6)
    NETWORK.check(info["architecture"])


@settings(max_examples=40, deadline=None)
@given(shares=st.lists(st.floats(0, 1), min_size=12, max_size=12), speedup=st.floats(1.0, 2.5))
def test_what_is_left_of_a_budget_brings_removed_blocks_back(completion, latency, shares, speedup):
    positions = completion.canonical(
        [
            int(s * (len(c.options) - 1) + 0.5)
            for s, c in zip(shares, completion.choices, strict=False)
        ]
    )
    budget_s = latency.dense_s / speedup
    spent = completion.spend(positions, budget_s)
    if completion.latency_s([positions])[0] <= budget_s:
        assert completion.latency_s([spent])[0] <= budget_s
    for index, choice in enumerate(completion.choices):
        if not choice.is_block or spent[index] == KEPT:
            continue
        back = [
            0 if c.inside == index else p for c, p in zip(completion.choices, spent, strict=True)
        ]
        back[index] = KEPT
        assert completion.latency_s([back])[0] > budget_s, "another block would have fitted"


def test_a_budget_of_everything_gives_everything_back(completion, latency):
    fewest = [0] * len(completion.choices)
    spent = completion.spend(fewest, latency.dense_s * (1 + 1e-9))
    assert completion.architecture(spent) == NETWORK.dense
    assert completion.fallback(latency.dense_s * (1 + 1e-9)) == NETWORK.dense


def test_a_block_is_as_sensitive_as_the_share_of_time_it_takes(completion, latency):
    sensitivity = dict(
        zip((c.name for c in completion.choices), latency_sensitivity(completion), strict=True)
    )
    saved = {
        block.name: latency.dense_s - latency.latency_s(Architecture(removed=(block.name,)))
        for block in NETWORK.blocks
    }
    slowest, fastest = max(saved, key=saved.get), min(saved, key=saved.get)
    assert sensitivity[slowest] >= sensitivity[fastest]
    assert sensitivity[slowest] / sensitivity[fastest] == pytest.approx(
        saved[slowest] / saved[fastest]
    )
    assert (REMOVED, KEPT) == (0, 1)
