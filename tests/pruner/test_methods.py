"""Baselines against small problems whose answer is known."""

import dataclasses
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest

from lookup_tables.architecture import Architecture
from lookup_tables.model.latency_model import LatencyModel
from pruner import SearchError
from pruner.graph.trace import trace
from pruner.search.completion import Completion
from pruner.search.knapsack import solve, solve_nearly, worth, worth_factors
from pruner.search.methods import METHODS
from pruner.search.methods.agents import AGENTS
from pruner.search.methods.amc import matching_budget
from pruner.search.methods.baselines import walk_randomly
from pruner.search.methods.env import ENVIRONMENTS
from tests.searching import QUICK, completion_of, problem_of, search, space_of
from tests.toys import Merging, chain, synthetic_table, tiny_network

CHAIN = chain(16, 32, 16, 8)
TINY = tiny_network()
TINY = TINY.with_menu({g.name: (g.width // 2, g.width) for g in TINY.groups})


@pytest.fixture(scope="module")
def latency(tmp_path_factory):
    return LatencyModel(CHAIN, synthetic_table(tmp_path_factory.mktemp("t") / "t", CHAIN, levels=8))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return LatencyModel(TINY, synthetic_table(tmp_path_factory.mktemp("t") / "t", TINY, levels=2))


def problem_for(latency, speedup, seed=0, depth=False, **fields):
    rng = np.random.default_rng(seed)
    network = latency.network
    values = {g.name: rng.exponential(size=g.width) for g in network.groups}
    blocks = {b.name: rng.exponential(size=1) for b in network.blocks}
    known = {
        "importance": lambda: values | blocks,
        "magnitudes": lambda: values,
        "filter_scores": lambda _: values,
    }
    return problem_of(latency, latency.dense_s / speedup, depth, **(known | fields))


def half(architecture):
    return 0.5


def best_by_brute_force(completion, values, budget_s):
    best = -np.inf
    for row in product(*(range(len(decision.options)) for decision in completion.decisions)):
        if completion.latency_s([row])[0] <= budget_s:
            best = max(best, total(completion, values, row))
    return best


def total(completion, values, row):
    return sum(
        values[i][position] for i, position in enumerate(row) if not completion.is_gone(i, row)
    )


@pytest.mark.parametrize(("speedup", "seed"), [(1.2, 0), (1.6, 1), (2.2, 2)])
def test_the_knapsack_is_the_best_of_all(latency, speedup, seed):
    problem = problem_for(latency, speedup, seed=seed)
    completion = Completion(latency)
    values = worth(completion, problem)
    positions = solve(completion, values, problem.budget_s)
    assert completion.latency_s([positions])[0] <= problem.budget_s * (1 + 1e-6)
    best = best_by_brute_force(completion, values, problem.budget_s)
    assert total(completion, values, positions) == pytest.approx(best, rel=2e-3)


def test_the_knapsack_with_blocks_is_the_best_of_all(tiny):
    problem = problem_for(tiny, 1.5)
    completion = completion_of(tiny, depth=True)
    values = worth(completion, problem)
    positions = solve(completion, values, problem.budget_s)
    assert completion.latency_s([positions])[0] <= problem.budget_s * (1 + 1e-6)
    best = best_by_brute_force(completion, values, problem.budget_s)
    assert total(completion, values, positions) == pytest.approx(best, rel=2e-3)


def test_where_only_the_fastest_network_fits_the_knapsack_takes_it(tiny):
    completion = completion_of(tiny, depth=True)
    fastest = completion.fastest()
    problem = problem_for(tiny, tiny.dense_s / tiny.latency_s(fastest))
    positions = solve(completion, worth(completion, problem), tiny.latency_s(fastest))
    assert completion.architecture(positions) == fastest


@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if not m.only_blocks])
def test_every_method_scores_a_network_within_the_budget(latency, name):
    def score(architecture: Architecture) -> float:
        return 0.5 + sum(architecture.widths.values()) / 1000

    problem = problem_for(latency, 1.7, episodes=12)
    asked = search(name, problem, score, **QUICK.get(name, {}))
    assert asked
    latency_s = latency.predict_architectures(asked).latency_s
    assert (latency_s <= problem.budget_s * (1 + 1e-9)).any()


@pytest.mark.parametrize("speedup", [1.1, 1.5, 2.2])
def test_the_quick_knapsack_is_within_the_budget_and_nearly_as_good(tiny, speedup):
    problem = problem_for(tiny, speedup)
    completion = completion_of(tiny, depth=True)
    values = worth(completion, problem)
    positions = solve_nearly(completion, values, problem.budget_s)
    assert completion.latency_s([positions])[0] <= problem.budget_s * (1 + 1e-9)
    best = best_by_brute_force(completion, values, problem.budget_s)
    assert total(completion, values, positions) > 0.9 * best


@pytest.mark.parametrize("price", [0.0, 0.3, 1.0, 30.0])
def test_the_best_architecture_at_a_price_is_that_of_brute_force(tiny, price):
    problem = problem_for(tiny, 1.5)
    completion = completion_of(tiny, depth=True)
    values = worth(completion, problem)

    def net(row):
        seconds = completion.latency_s([row])[0] / tiny.dense_s
        return total(completion, values, row) - price * seconds

    found = completion.best(worth_factors(completion, values), price / tiny.dense_s)
    rows = product(*(range(len(decision.options)) for decision in completion.decisions))
    assert net(found) == pytest.approx(max(map(net, rows)), abs=1e-9)


def test_positions_and_architectures_are_the_same_thing(tiny):
    completion = completion_of(tiny, depth=True)
    rng = np.random.default_rng(0)
    for _ in range(20):
        row = [int(rng.integers(len(decision.options))) for decision in completion.decisions]
        row = completion.canonical(row)
        assert completion.positions(completion.architecture(row)) == row


def test_values_of_one_half_are_the_knapsacks_own_answer(tiny):
    problem = problem_for(tiny, 1.5, depth=True, episodes=3)
    seen = search("rl", problem, half, agent="ddpg", actions="values")
    completion = completion_of(tiny, depth=True)
    nearly = solve_nearly(completion, worth(completion, problem), problem.budget_s)
    assert seen[0] == completion.architecture(nearly)


@pytest.mark.parametrize("actions", ENVIRONMENTS)
@pytest.mark.parametrize("agent", AGENTS)
def test_every_agent_meets_the_budget_and_repeats_itself(latency, agent, actions):
    def searched():
        problem = dataclasses.replace(problem_for(latency, 1.5, episodes=6), seed=1)
        score = lambda architecture: 0.5 + architecture.widths["g0"] / 100  # noqa: E731 - shorter
        return search("rl", problem, score, agent=agent, actions=actions)

    found = searched()
    assert len(found) == 6
    assert max(map(latency.latency_s, found)) <= latency.dense_s / 1.5 * (1 + 1e-6)
    assert found == searched()


def test_random_networks_are_shallow_and_deep(tiny):
    seen = search("random", problem_for(tiny, 1.7, depth=True, episodes=60), half)
    removed = [len(architecture.removed) for architecture in seen]
    assert min(removed) == 0
    assert max(removed) >= 2


def test_a_greedy_search_gives_up_what_costs_no_accuracy(latency):
    """Only the second group matters: the others are thinned first."""

    def score(architecture: Architecture) -> float:
        return architecture.widths["g1"] / 32

    asked = search("greedy", problem_for(latency, 1.3, episodes=30), score)
    assert asked[-1].widths["g1"] == 32


def test_global_magnitude_spares_the_group_that_weighs_most(latency):
    weights = {g.name: np.full(g.width, 9.0 if g.name == "g1" else 1.0) for g in CHAIN.groups}
    problem = problem_for(latency, 1.4, magnitudes=lambda: weights)
    (found,) = search("magnitude", problem, half)
    assert found.widths["g1"] == 32
    assert min(found.widths.values()) < 16


@pytest.mark.parametrize(("speedup", "seed"), [(1.1, 0), (1.5, 1), (1.7, 2), (2.2, 3)])
def test_global_magnitude_and_uniform_spend_what_the_budget_allows(latency, speedup, seed):
    completion = Completion(latency)
    for method in ("magnitude", "uniform"):
        problem = problem_for(latency, speedup, seed)
        seen = search(method, problem, half)
        positions = completion.positions(seen[0])
        assert completion.latency_s([positions])[0] <= problem.budget_s * (1 + 1e-9)
        assert completion.spend(positions, problem.budget_s) == positions


def test_amcs_budget_is_one_that_half_of_its_networks_are_fast_enough_for(latency):
    problem = problem_for(latency, 1.6)
    completion = Completion(latency.in_macs())
    budget = matching_budget(completion, problem)
    rng = np.random.default_rng(9)
    rows = [walk_randomly(completion, budget, rng) for _ in range(200)]
    assert completion.latency_s(rows).max() <= budget * (1 + 1e-9)
    found = latency.predict_architectures([completion.architecture(row) for row in rows])
    assert 0.3 < (found.latency_s <= problem.budget_s).mean() < 0.8


@pytest.mark.parametrize("episodes", [2, 7, 40])
def test_a_greedy_search_scores_no_more_than_it_may_and_ends_within_the_budget(tiny, episodes):
    problem = problem_for(tiny, 1.9, depth=True, episodes=episodes)
    seen = search("greedy", problem, half)
    assert len(seen) <= episodes
    assert tiny.latency_s(seen[-1]) <= problem.budget_s * (1 + 1e-9)


def test_a_greedy_search_for_the_fastest_network_ends(tiny):
    fastest_s = tiny.latency_s(completion_of(tiny, depth=True).fastest())
    speedup = tiny.dense_s / fastest_s * (1 - 1e-9)
    problem = problem_for(tiny, speedup, depth=True, episodes=30)
    seen = search("greedy", problem, half)
    assert tiny.latency_s(seen[-1]) <= problem.budget_s * (1 + 1e-6)


@pytest.mark.parametrize("episodes", [1, 2, 9])
def test_amc_ends_with_a_network_that_is_fast_enough_and_scores_no_more_than_it_may(
    latency, episodes
):
    problem = problem_for(latency, 1.6, episodes=episodes)
    seen = search("amc", problem, half)
    assert len(seen) <= episodes
    assert latency.latency_s(seen[-1]) <= problem.budget_s * (1 + 1e-9)
    completion = Completion(latency)
    ended = completion.positions(seen[-1])
    assert completion.spend(ended, problem.budget_s) == ended, "compared at the budget's latency"


def test_amc_takes_fewer_macs_where_hardly_any_proposal_is_fast_enough(latency, monkeypatch):
    """One lucky proposal must not keep it where all others are too slow."""
    monkeypatch.setattr(
        "pruner.search.methods.amc.matching_budget", lambda completion, *_: completion.model.dense_s
    )
    lucky = Completion(latency).fallback(latency.dense_s / 2)
    problem = problem_for(latency, 2, episodes=200)

    def agent(by_macs, settings, score):
        score(lucky)
        for _ in range(by_macs.episodes):
            share = by_macs.budget_s / by_macs.cost.dense_s
            score(
                Architecture(
                    widths={g.name: max(1, int(g.width * share)) for g in latency.network.groups}
                )
            )

    monkeypatch.setattr("pruner.search.methods.agents.run_agent", agent)
    monkeypatch.setattr("pruner.search.methods.agents.warm_up", lambda settings, episodes: 0)
    seen = [latency.latency_s(each) for each in search("amc", problem, lambda _: 0.9)]
    too_slow = [seconds > problem.budget_s for seconds in seen]
    assert sum(too_slow[-20:]) < 10 < sum(too_slow[:22])
    assert len(seen) <= 201


def test_the_knapsacks_answer_does_not_depend_on_the_machines_speed(latency, monkeypatch):
    """What ends the solver's tree is a number of nodes; where time does, there is no answer."""
    monkeypatch.setattr("pruner.search.knapsack.PATIENCE_S", 0)
    with pytest.raises(SearchError, match="did not finish the knapsack within 20000 nodes or 0 s"):
        search("knapsack", problem_for(latency, 1.5), half)


def test_the_knapsack_spends_what_its_solver_leaves(latency, monkeypatch):
    def solve(completion, *_):
        return [0] * len(completion.decisions)

    monkeypatch.setattr("pruner.search.methods.knapsack.solve", solve)
    problem = problem_for(latency, 1.5)
    seen = search("knapsack", problem, half)
    completion = Completion(latency)
    ended = completion.positions(seen[0])
    assert any(ended)
    assert completion.spend(ended, problem.budget_s) == ended


def test_a_model_in_macs_counts_macs(latency):
    in_macs = latency.in_macs()
    widths = {"g0": 8, "g1": 16, "g2": 16}
    share = CHAIN.macs(widths) / CHAIN.macs(CHAIN.widths(CHAIN.dense))
    found = in_macs.latency_s(Architecture(widths=widths)) / in_macs.dense_s
    assert found == pytest.approx(share)


def test_a_model_in_weights_counts_weights(latency):
    in_weights = latency.in_weights()
    # 3×3 convolutions of 3, g0, g1, g2 and 8 channels.
    dense, half = (9 * (3 * a + a * b + b * c + c * 8) for a, b, c in ((16, 32, 16), (8, 16, 16)))
    architecture = Architecture(widths={"g0": 8, "g1": 16, "g2": 16})
    found = in_weights.latency_s(architecture) / in_weights.dense_s
    assert found == pytest.approx(half / dense)


def test_the_layers_of_a_model_in_macs_are_macs_too(latency):
    in_macs = latency.in_macs()
    layers = in_macs.layers(latency.network.dense)
    assert sum(layer.seconds for layer in layers) == pytest.approx(in_macs.dense_s)
    shares = [layer.seconds / in_macs.dense_s for layer in layers]
    whole = latency.network.macs_of(latency.network.dense)
    assert shares == pytest.approx([layer.spec.macs / whole for layer in layers])


def test_a_width_is_worth_its_most_important_channels():
    network = chain(4, 4).with_menu({"g0": (1, 2, 3, 4)})
    completion = SimpleNamespace(decisions=space_of(network).decisions)
    (values,) = worth(completion, SimpleNamespace(importance=lambda: {"g0": [1, 5, 0, 2]}))
    assert values.tolist() == pytest.approx([5 / 8, 7 / 8, 1, 1])


@pytest.fixture(scope="module")
def merging(tmp_path_factory):
    """A layer reads eight groups of eight widths each: too many combinations for a table."""
    network = trace(Merging(8), (3, 8, 8), "merging").network
    network = network.with_menu({group.name: tuple(range(2, 17, 2)) for group in network.groups})
    folder = tmp_path_factory.mktemp("merging")
    return LatencyModel(network, synthetic_table(folder / "t", network, levels=2))


def test_a_layer_that_reads_many_groups_is_told_by_pairs_and_every_bound_is_a_network(merging):
    completion = Completion(merging)
    assert completion.told_by_pairs
    rest = [0] * (len(completion.decisions) - 1)
    rows = [[choice, *rest] for choice in range(len(completion.menus[0]))]
    assert completion.cheapest_s([]).tolist() == completion.latency_s(rows).tolist()
    found = completion.fallback(merging.dense_s * 0.9)
    assert merging.dense_s * 0.8 < merging.latency_s(found) <= merging.dense_s * 0.9
    # The sum of pairs is nearly what a network takes, far from the middle of all menus less so.
    rng = np.random.default_rng(0)
    rows = [[int(rng.integers(8)) for _ in completion.decisions] for _ in range(20)]
    told = [completion.constant_s + sum(f.at(row) for f in completion.factors()) for row in rows]
    off = np.array(told) / completion.latency_s(rows) - 1
    assert np.median(np.abs(off)) < 0.02
    assert np.abs(off).max() < 0.25


@pytest.mark.parametrize("way", [solve, solve_nearly])
def test_a_knapsack_meets_its_budget_where_prices_are_told_by_pairs(merging, way):
    completion = Completion(merging)
    values = [np.sqrt(decision.options) for decision in completion.decisions]
    budget_s = merging.dense_s * 0.8
    taken_s = completion.latency_s([way(completion, values, budget_s)])[0]
    assert 0.7 * merging.dense_s < taken_s <= budget_s
