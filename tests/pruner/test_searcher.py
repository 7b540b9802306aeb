"""Searches that are asked and told."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lookup_tables.architecture import Architecture
from pruner.search.searcher import Scored, Searcher, asked_for_scores, evaluated_here, front_of


def network(width: int) -> Architecture:
    return Architecture(widths={"g": width})


def scored(architecture: Architecture) -> Scored:
    return Scored(architecture, architecture.widths["g"] / 100, 1e-3)


def two_batches():
    first = yield [network(1), network(2), network(3)]
    assert [each.architecture for each in first] == [network(1), network(2), network(3)]
    yield [network(10 * len(first))]


def test_a_batch_may_be_asked_for_and_told_in_parts():
    searcher = Searcher(two_batches())
    assert searcher.ask(2) == [network(1), network(2)]
    assert searcher.ask(2) == [network(3)]
    assert searcher.ask(2) == [], "the next batch follows from what was not told yet"
    searcher.tell([scored(network(1))])
    searcher.tell([scored(network(2)), scored(network(3))])
    assert searcher.ask(5) == [network(30)]
    assert not searcher.is_over
    searcher.tell([scored(network(30))])
    assert searcher.is_over
    assert searcher.ask(5) == []


def test_a_function_that_calls_for_scores_is_asked_like_any_other():
    heard = []

    def search(score):
        for width in (1, 2, 3):
            heard.append(score(network(width)))

    searcher = Searcher(asked_for_scores(search))
    asked = []
    while batch := searcher.ask():
        asked += batch
        searcher.tell(map(scored, batch))
    assert asked == [network(1), network(2), network(3)]
    assert heard == [0.01, 0.02, 0.03]


def test_what_such_a_function_raises_is_raised_where_it_is_asked():
    def search(score):
        score(network(1))
        raise ValueError("out of ideas")

    searcher = Searcher(asked_for_scores(search))
    with pytest.raises(ValueError, match="out of ideas"):
        searcher.tell(map(scored, searcher.ask()))


def test_an_abandoned_search_leaves_no_thread_behind():
    def search(score):
        while True:
            score(network(1))

    before = threading.active_count()
    searcher = Searcher(asked_for_scores(search))
    searcher.ask()
    assert threading.active_count() == before + 1
    searcher.close()
    assert threading.active_count() == before


def test_an_evaluator_in_this_process_scores_one_after_the_other():
    seen = []
    evaluate = evaluated_here(lambda architecture: seen.append(architecture) or 0.5)
    accuracies = evaluate([network(1), network(2)])
    assert next(accuracies) == 0.5
    assert seen == [network(1)], "each as soon as it is known"


points = st.tuples(st.integers(1, 9), st.integers(0, 9))


@given(st.lists(points, max_size=30))
def test_nothing_on_a_front_is_surpassed_and_everything_else_is(drawn):
    found = [Scored(network(1), accuracy / 10, seconds / 1e3) for seconds, accuracy in drawn]
    front = front_of(found)
    for each in found:
        surpassed = any(
            other.latency_s <= each.latency_s and other.accuracy >= each.accuracy
            and (other.latency_s, other.accuracy) != (each.latency_s, each.accuracy)
            for other in found
        )  # fmt: skip
        known = {(point.latency_s, point.accuracy) for point in front}
        assert ((each.latency_s, each.accuracy) in known) is not surpassed
    assert [p.latency_s for p in front] == sorted(p.latency_s for p in front)


def test_a_front_begins_with_the_fastest():
    found = [Scored(network(w), a, s) for w, a, s in ((1, 0.5, 2.0), (2, 0.9, 3.0), (3, 0.4, 2.5))]
    assert [point.architecture for point in front_of(found)] == [network(1), network(2)]
