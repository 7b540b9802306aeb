"""Widths and blocks decided together, on a table from a known cost."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lookup_tables.architecture import Architecture
from lookup_tables.errors import ContractError
from lookup_tables.model.latency_model import LatencyModel
from pruner import SearchError
from pruner.search.completion import Completion
from pruner.search.methods.env import PruningEnv
from pruner.search.methods.rewards import REWARDS
from pruner.search.sensitivity import latency_sensitivity
from pruner.search.space import KEPT, REMOVED, Kind, SearchSpace
from tests.searching import completion_of, problem_of, space_of
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
    return completion_of(latency, depth=True)


def everything(completion):
    return product(*(range(len(decision.options)) for decision in completion.decisions))


def test_a_block_is_decided_before_the_groups_that_go_with_it():
    space = space_of(NETWORK, depth=True)
    assert {d.name for d in space.decisions if d.is_block} == {b.name for b in NETWORK.blocks}
    inside = [(i, d) for i, d in enumerate(space.decisions) if d.inside is not None]
    assert inside
    for index, decision in inside:
        block = space.block_around(index)
        assert block < index
        assert space.decisions[block].name == decision.inside
        assert index in space.inside_of(block)


def test_without_depth_only_widths_are_decided():
    assert [d.name for d in space_of(NETWORK).decisions] == [g.name for g in NETWORK.groups]


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
        options = range(len(completion.decisions[len(decided)].options))
        expected = [
            latency_s[alike & (rows[:, len(decided)] == option)].min() for option in options
        ]
        assert completion.cheapest_s(decided) == pytest.approx(expected)


def test_what_a_removed_block_takes_with_it_keeps_its_full_name(completion):
    positions = [0] * len(completion.decisions)
    architecture = completion.architecture(positions)
    assert set(architecture.removed) == {block.name for block in NETWORK.blocks}
    for decision in completion.decisions:
        if decision.inside is not None:
            assert architecture.widths[decision.name] == decision.full


@given(st.lists(st.floats(0, 1), min_size=12, max_size=12), st.floats(1.2, 3.0))
@settings(deadline=None, max_examples=25)
def test_any_episode_with_blocks_meets_the_budget(completion, latency, actions, speedup):
    fastest_s = latency.latency_s(completion.fastest())
    budget_s = max(latency.dense_s / speedup, fastest_s * 1.01)
    problem = problem_of(latency, budget_s, depth=True)
    env = PruningEnv(problem, lambda architecture: 0.5, REWARDS["error"])
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
            for s, c in zip(shares, completion.decisions, strict=False)
        ]
    )
    budget_s = latency.dense_s / speedup
    spent = completion.spend(positions, budget_s)
    if completion.latency_s([positions])[0] <= budget_s:
        assert completion.latency_s([spent])[0] <= budget_s
    for index, decision in enumerate(completion.decisions):
        if not decision.is_block or spent[index] == KEPT:
            continue
        inside = completion.space.inside_of(index)
        back = [0 if i in inside else position for i, position in enumerate(spent)]
        back[index] = KEPT
        assert completion.latency_s([back])[0] > budget_s, "another block would have fitted"


def test_a_budget_of_everything_gives_everything_back(completion, latency):
    fewest = [0] * len(completion.decisions)
    spent = completion.spend(fewest, latency.dense_s * (1 + 1e-9))
    assert completion.architecture(spent) == NETWORK.dense
    assert completion.fallback(latency.dense_s * (1 + 1e-9)) == NETWORK.dense


def test_a_block_is_as_sensitive_as_the_share_of_time_it_takes(completion, latency):
    sensitivity = dict(
        zip((c.name for c in completion.decisions), latency_sensitivity(completion), strict=True)
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


# -- encodings -------------------------------------------------------------------------------------

WRITERS = {layer.name for layer in NETWORK.layers if layer.group is not None}
DENSITIES = {name: (0.25, 0.5, 1.0) for name in NETWORK.sparse_layers if name in WRITERS}
ALL_KINDS = SearchSpace.of(NETWORK, [*Kind], DENSITIES)


def test_a_space_of_all_kinds_decides_a_block_then_its_widths_then_their_weights():
    first = [ALL_KINDS.decisions[i] for i in ALL_KINDS.inside_of(_first_block())]
    assert ALL_KINDS.decisions[_first_block()].kind is Kind.BLOCK
    assert [decision.kind for decision in first[:2]] == [Kind.WIDTH, Kind.DENSITY]
    assert first[0].name == first[1].name, "a group is named after its first layer"


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_an_architecture_has_one_encoding_and_comes_back_from_it(data):
    drawn = [data.draw(st.integers(0, len(d.options) - 1)) for d in ALL_KINDS.decisions]
    architecture = ALL_KINDS.decode(drawn)
    NETWORK.check(architecture)
    encoding = ALL_KINDS.encode(architecture)
    assert encoding == ALL_KINDS.canonical(drawn)
    assert ALL_KINDS.decode(encoding) == architecture


def test_the_dense_network_is_the_last_option_of_everything():
    assert ALL_KINDS.decode(ALL_KINDS.dense) == NETWORK.dense
    assert ALL_KINDS.encode(Architecture()) == list(ALL_KINDS.dense)


def test_what_is_not_on_the_menu_is_named():
    group = NETWORK.groups[0]
    with pytest.raises(
        SearchError, match=rf"width 3 of {group.name} is not a candidate; choose from "
    ):
        ALL_KINDS.encode(Architecture(widths={group.name: 3}))


def test_a_table_without_sparse_kernels_refuses_to_price_densities(latency):
    with pytest.raises(ContractError, match="has no sparse kernels"):
        Completion(latency, ALL_KINDS)


def _first_block() -> int:
    return next(i for i, decision in enumerate(ALL_KINDS.decisions) if decision.is_block)
