"""A network that was found is timed before it is trained, and searched again if it misses."""

from types import SimpleNamespace

import pytest

from lookup_tables.architecture import Architecture
from lookup_tables.errors import BudgetError
from pruner.run.confirm import confirmed
from pruner.run.folder import read_json
from pruner.run.measured import NotTimed

ASKED = 0.5  # of the dense network's time


class Searches:
    """Searches that use all of the budget they may, on a device slower than its table by `off`."""

    def __init__(self, path, off):
        self.journey = SimpleNamespace(
            budget_s=ASKED, latency=SimpleNamespace(dense_s=1.0), tightened=1.0
        )
        self.run = SimpleNamespace(confirmed=path / "confirmed.json")
        self.off, self.searched, self.timed = off, [], 0

    def search(self):
        share = self.journey.tightened * ASKED
        self.searched.append(share)
        return Architecture(widths={"g": round(1000 * share)})

    def measure(self, architecture):
        self.timed += 1
        if self.off is None:
            return NotTimed("another device")
        share = architecture.widths["g"] / 1000 * self.off(self.timed)
        return {"latency_ms": share, "dense_ms": 1.0}

    def confirmed(self):
        return confirmed(self.journey, self.run, self.search, self.measure)


def test_a_network_that_is_as_fast_as_asked_is_taken(tmp_path):
    searches = Searches(tmp_path, lambda _: 1.005)
    assert searches.confirmed().widths == {"g": 500}
    assert searches.searched == [ASKED]


def test_a_slower_one_is_searched_again_with_so_much_less_of_the_budget(tmp_path):
    searches = Searches(tmp_path, lambda _: 1.05)
    assert searches.confirmed().widths == {"g": round(500 / 1.05)}
    assert searches.searched == [ASKED, pytest.approx(ASKED / 1.05)]


def test_where_none_is_fast_enough_the_closest_is_taken(tmp_path):
    searches = Searches(tmp_path, lambda attempt: {1: 1.1, 2: 1.15, 3: 1.3}[attempt])
    assert searches.confirmed().widths == {"g": round(500 / 1.1)}
    assert searches.timed == 3


def test_where_nothing_can_be_timed_the_first_one_is_taken(tmp_path):
    searches = Searches(tmp_path, None)
    assert searches.confirmed().widths == {"g": 500}
    assert not searches.run.confirmed.exists()


def test_what_was_timed_before_an_interruption_is_not_timed_again(tmp_path):
    first = Searches(tmp_path, lambda _: 1.05)
    found = first.confirmed()
    again = Searches(tmp_path, lambda _: 9.0)
    assert again.confirmed() == found
    assert not again.searched
    assert [len(a) for a in read_json(first.run.confirmed)] == [2, 2]


def test_a_budget_that_nothing_meets_a_second_time_leaves_the_first_network(tmp_path):
    searches = Searches(tmp_path, lambda _: 1.05)
    search = searches.search

    def once():
        if searches.searched:
            raise BudgetError("nothing is that fast")
        return search()

    searches.search = once
    assert searches.confirmed().widths == {"g": 500}
    searches.searched, searches.run.confirmed = [0], tmp_path / "none.json"
    with pytest.raises(BudgetError):
        searches.confirmed()
