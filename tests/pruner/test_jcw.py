"""JCW: its selection on small examples, its genome, and what its limits leave."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lookup_tables.architecture import Architecture
from lookup_tables.model.latency_model import LatencyModel
from pruner import SearchError
from pruner.run.front import hypervolume
from pruner.search.methods import METHODS
from pruner.search.methods.jcw import Genome, JcwSettings, select
from pruner.search.methods.thompson_front import turn
from pruner.search.searcher import Scored, front_of
from tests.pruner.test_thompson import Truth
from tests.searching import QUICK, completion_of, problem_of, search
from tests.toys import synthetic_table, tiny_network

NETWORK = tiny_network()
ANY_WIDTH = {name: value for name, value in QUICK["jcw"].items() if name.startswith("least")}
SMALL = {"population": 8, "generations": 4}


@pytest.fixture(scope="module")
def latency(tmp_path_factory):
    table = synthetic_table(tmp_path_factory.mktemp("t") / "t", NETWORK)
    return LatencyModel(NETWORK, table)


# -- selection ---------------------------------------------------------------------------------


def test_targets_take_turns_and_each_gets_what_is_near_it():
    # Losses and latencies: two on the way to 1 s, two at 2 s, of which one is worse.
    objectives = np.array([[0.5, 1.0], [0.6, 1.0], [0.1, 2.0], [0.2, 2.0]])
    assert {each.index for each in select(objectives, [1.0, 2.0], 2)} == {0, 2}
    assert {each.index for each in select(objectives, [1.0, 2.0], 4)} == {0, 1, 2, 3}


def test_a_single_target_would_lose_the_other_end():
    slow_and_right = [[0.0 + i / 100, 2.0 - i / 100] for i in range(4)]
    fast_and_wrong = [[0.9, 1.0], [0.8, 1.1]]
    objectives = np.array([*slow_and_right, *fast_and_wrong])
    near_slow = {each.index for each in select(objectives, [2.0], 2)}
    assert not near_slow & {4, 5}
    assert 4 in {each.index for each in select(objectives, [1.0, 2.0], 4)}


objectives = st.lists(
    st.tuples(st.floats(0, 1), st.floats(0.1, 10)), min_size=1, max_size=40, unique=True
)


@given(objectives, st.lists(st.floats(0.1, 10), min_size=1, max_size=5), st.integers(1, 40))
def test_selection_takes_as_many_as_asked_each_once_and_the_best_at_every_target(
    rows, targets_s, count
):
    rows = np.array(rows)
    chosen = select(rows, targets_s, count)
    indices = [each.index for each in chosen]
    assert len(indices) == len({*indices}) == min(count, len(rows))
    assert [each.front for each in chosen] == sorted(each.front for each in chosen)
    first = {each.index for each in chosen if each.front == 0}
    for index in first:  # nothing is as near to a target, and better
        assert any(
            not np.any(
                (rows[:, 0] < rows[index, 0])
                & (np.abs(rows[:, 1] - target) <= np.abs(rows[index, 1] - target))
            )
            for target in targets_s
        )


# -- genome ------------------------------------------------------------------------------------


@given(st.data())
def test_genes_snap_to_candidates_and_snapping_again_changes_nothing(latency, data):
    genome = Genome(completion_of(latency, depth=True))
    genes = data.draw(st.lists(st.floats(0, 1), min_size=len(genome), max_size=len(genome)))
    snapped = genome.snapped(np.array([genes]))
    assert np.array_equal(genome.snapped(snapped), snapped)
    positions = genome.positions(genes)
    assert genome.positions(snapped[0]) == positions
    architecture = genome.completion.architecture(positions)
    assert genome.completion.positions(architecture) == positions


def test_the_first_generation_reaches_from_the_fastest_to_the_dense_network(latency):
    completion = completion_of(latency)
    genome = Genome(completion)
    rows = [genome.positions(genes) for genes in genome.first(16, np.random.default_rng(0))]
    seconds = completion.latency_s(rows)
    assert seconds.min() == pytest.approx(latency.latency_s(completion.fastest()))
    assert seconds.max() == pytest.approx(latency.dense_s)
    assert len({*map(tuple, rows)}) > 8


# -- search ------------------------------------------------------------------------------------


def test_jcw_scores_its_generations_and_meets_the_budget(latency):
    truth = Truth(latency, 0)
    problem = truth.problem(latency, 1.5, seed=1)
    asked = search("jcw", problem, truth.score, at_once=4, **SMALL, **ANY_WIDTH)
    assert 8 < len(asked) <= 32
    assert len({*asked[:8]}) == len(asked[:8]), "of one generation all differ"
    assert min(map(latency.latency_s, asked)) <= problem.budget_s
    again = search("jcw", problem, truth.score, at_once=1, **SMALL, **ANY_WIDTH)
    assert again == asked


def test_more_generations_dominate_more(latency):
    truth = Truth(latency, 3)
    problem = truth.problem(latency, 2.0, depth=False)

    def reached(generations: int) -> float:
        own = ANY_WIDTH | {"population": 12, "generations": generations}
        asked = search("jcw", problem, truth.score, **own)
        scored = [Scored(a, truth.score(a), latency.latency_s(a)) for a in asked]
        return _dominated(front_of(scored), latency.dense_s)

    assert reached(12) > reached(1)


def test_no_layer_is_narrower_than_its_kind_may_be(latency):
    limits = {"least_width": 0.5, "least_width_strided": 0.6, "least_width_shortcut": 1.0}
    problem = problem_of(latency, latency.dense_s)
    asked = search("jcw", problem, lambda _: 0.5, **SMALL, **limits, least_width_first=0.0)
    shortcuts = {layer.group for layer in NETWORK.layers if layer.residual}
    strided = {layer.group for layer in NETWORK.layers if layer.group and max(layer.stride) > 1}
    assert shortcuts
    assert strided - shortcuts
    for group in NETWORK.groups:
        widths = {architecture.widths.get(group.name, group.width) for architecture in asked}
        least = 1.0 if group.name in shortcuts else 0.6 if group.name in strided else 0.5
        assert min(widths) >= least * group.width
        assert len(widths) > 1 or group.name in shortcuts


def test_a_budget_that_the_limits_do_not_allow_is_told(latency):
    problem = problem_of(latency, latency.dense_s / 3)
    with pytest.raises(SearchError, match="Lower --least-width"):
        METHODS["jcw"].check(problem, JcwSettings(least_width=0.9))


def test_one_model_of_the_losses_answers_for_every_budget(latency):
    truth = Truth(latency, 5)
    problem = truth.problem(latency, 2.0, episodes=60)
    asked = search("thompson_front", problem, truth.score, budgets=4)
    scored = [Scored(a, truth.score(a), latency.latency_s(a)) for a in asked]
    assert min(each.latency_s for each in scored) <= problem.budget_s * (1 + 1e-9)
    assert max(each.latency_s for each in scored) > 0.8 * latency.dense_s
    random = search("random", problem, truth.score)
    others = [Scored(a, truth.score(a), latency.latency_s(a)) for a in random]
    ours, theirs = (_dominated(front_of(each), latency.dense_s) for each in (scored, others))
    assert ours > theirs


@given(st.integers(2, 40))
def test_every_budget_has_its_turn(budgets):
    turns = [turn(episode, budgets) for episode in range(16 * budgets)]
    assert {*turns} == {*range(budgets)}


# -- fronts ------------------------------------------------------------------------------------


def test_a_front_dominates_the_steps_under_it():
    front = {
        "dense_ms": 4.0,
        "points": [{"latency_ms": 1.0, "accuracy": 0.5}, {"latency_ms": 2.0, "accuracy": 1.0}],
    }
    assert hypervolume(front) == pytest.approx((1.0 * 0.5 + 2.0 * 1.0) / 4.0)
    assert hypervolume(front, least_accuracy=0.5) == pytest.approx(0.5)
    assert hypervolume(front, fastest_ms=1.5) == pytest.approx((0.5 * 0.5 + 2.0 * 1.0) / 2.5)


def _dominated(scored, dense_s: float) -> float:
    points = [{"latency_ms": 1e3 * s.latency_s, "accuracy": s.accuracy} for s in scored]
    return hypervolume({"dense_ms": 1e3 * dense_s, "points": points})


def test_a_slower_and_no_better_network_is_not_in_a_front():
    scored = [Scored(Architecture(), 0.5, 1.0), Scored(Architecture(widths={"a": 1}), 0.5, 2.0)]
    assert front_of(scored) == scored[:1]
