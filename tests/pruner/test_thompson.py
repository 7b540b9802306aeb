"""The additive model of accuracy, and sampling from it, where the truth is additive and known."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lookup_tables.model.latency_model import LatencyModel
from pruner.search.knapsack import worth
from pruner.search.methods.additive import AdditiveLosses
from pruner.search.problem import SearchProblem
from tests.searching import completion_of, problem_of, search
from tests.toys import synthetic_table, tiny_network

TINY = tiny_network()
TINY = TINY.with_menu({g.name: (g.width // 2, g.width) for g in TINY.groups})


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return LatencyModel(TINY, synthetic_table(tmp_path_factory.mktemp("t") / "t", TINY, levels=2))


class Truth:
    """Every decision costs a share of accuracy of its own, which its importance does not know."""

    def __init__(self, latency, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.completion = completion_of(latency, depth=True)
        self.losses = [
            np.append(rng.exponential(0.2, len(decision.options) - 1), 0.0)
            for decision in self.completion.decisions
        ]
        names = {decision.name: int(decision.full) for decision in self.completion.decisions}
        self.importance = {name: rng.exponential(size=width) for name, width in names.items()}

    def accuracy(self, positions) -> float:
        gone = self.completion.is_gone
        lost = [
            loss[position]
            for i, (loss, position) in enumerate(zip(self.losses, positions, strict=True))
            if not gone(i, positions)
        ]
        return 0.9 * float(np.exp(-np.sum(lost)))

    def problem(self, latency, speedup: float, **fields) -> SearchProblem:
        budget_s = latency.dense_s / speedup
        known = {"depth": True, "importance": lambda: self.importance}
        return problem_of(latency, budget_s, **(known | fields))

    def score(self, architecture) -> float:
        return self.accuracy(self.completion.positions(architecture))

    def model(self, problem: SearchProblem) -> AdditiveLosses:
        return AdditiveLosses(self.completion, worth(self.completion, problem))

    def rows(self):
        return product(*(range(len(decision.options)) for decision in self.completion.decisions))


@pytest.mark.parametrize("seed", [0, 1])
def test_sampling_finds_the_optimum_that_importance_does_not_know(tiny, seed):
    truth = Truth(tiny, seed)
    problem = truth.problem(tiny, 1.5, episodes=40)
    seen = [truth.score(each) for each in search("thompson", problem, truth.score)]
    within = [r for r in truth.rows() if truth.completion.latency_s([r])[0] <= problem.budget_s]
    assert len(seen) == 40
    assert max(seen) > 0.99 * max(map(truth.accuracy, within))
    assert seen[0] < max(seen)


def test_what_every_option_costs_is_known_once_enough_was_seen(tiny):
    truth = Truth(tiny, 2)
    model = truth.model(truth.problem(tiny, 1.5))
    rng = np.random.default_rng(0)
    for _ in range(60):
        row = [int(rng.integers(len(decision.options))) for decision in truth.completion.decisions]
        row = truth.completion.canonical(row)
        model.observe(row, truth.accuracy(row))
    model.fit()
    values = model.draw(rng, temperature=0.0)
    for choice, value, loss in zip(truth.completion.decisions, values, truth.losses, strict=True):
        if not choice.is_block:
            assert value[-1] - value[0] == pytest.approx(loss[0], abs=0.05), choice.name


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), temperature=st.floats(0, 2), count=st.integers(1, 8))
def test_keeping_more_channels_is_never_worth_less(tiny, seed, temperature, count):
    truth = Truth(tiny, seed)
    model = truth.model(truth.problem(tiny, 1.5))
    rng = np.random.default_rng(seed)
    for _ in range(count):
        row = [int(rng.integers(len(decision.options))) for decision in truth.completion.decisions]
        model.observe(truth.completion.canonical(row), rng.random())
    for choice, value in zip(truth.completion.decisions, model.draw(rng, temperature), strict=True):
        assert np.isfinite(value).all()
        if not choice.is_block:
            assert (np.diff(value) >= 0).all()


def test_without_temperature_a_draw_is_the_mean(tiny):
    truth = Truth(tiny, 0)
    model = truth.model(truth.problem(tiny, 1.5))
    dense = [len(decision.options) - 1 for decision in truth.completion.decisions]
    model.observe(dense, 0.9)
    one, other = (model.draw(np.random.default_rng(seed), 0.0) for seed in (1, 2))
    assert all((a == b).all() for a, b in zip(one, other, strict=True))
