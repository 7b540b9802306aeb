"""Confirm: a network that was found is timed before it is trained, and searched again if it misses.

A search finds what its table prices too low, so networks that it chose are slower than predicted
more often than faster. Where the device is at hand, the one that was found is timed in pairs with
the dense network. If it takes longer than the budget allows, the next search may use so much less
of the budget, and the same log serves both. What was timed is kept in the run's folder, so that a
run that was interrupted goes on to the same network.
"""

from __future__ import annotations

from collections.abc import Callable

from lookup_tables.architecture import Architecture
from lookup_tables.errors import BudgetError
from pruner import SearchError
from pruner.run.folder import RunFolder, read_json, write_json
from pruner.run.journey import Journey
from pruner.run.measured import NotTimed

ATTEMPTS = 3
CLOSE = 0.01  # by which a measured time may be above the budget


def confirmed(
    journey: Journey,
    run: RunFolder,
    search: Callable[[], Architecture],
    measure: Callable[[Architecture], dict | NotTimed],
) -> Architecture:
    """The first network of ATTEMPTS searches whose measured time meets the budget.

    Else the one that came closest. Where nothing can be timed here, the first that is found.
    """
    allowed = journey.budget_s / journey.latency.dense_s
    attempts: list[dict] = read_json(run.confirmed) if run.confirmed.exists() else []
    for number in range(ATTEMPTS):
        if number == len(attempts):
            journey.tightened = _tightened(attempts, allowed)
            try:
                found = search()
            except (BudgetError, SearchError):  # nothing is that fast by the table
                if not attempts:
                    raise
                break
            taken = measure(found)
            if isinstance(taken, NotTimed):
                return found
            share = taken["latency_ms"] / taken["dense_ms"]
            known = found.model_dump(exclude_defaults=True)
            attempts.append({"architecture": known, "share_of_dense": share})
            write_json(run.confirmed, attempts)
        if attempts[number]["share_of_dense"] <= allowed * (1 + CLOSE):
            break
    best = min(attempts, key=lambda each: (_misses(each, allowed), -each["share_of_dense"]))
    return Architecture(**best["architecture"])


def _tightened(attempts: list[dict], allowed: float) -> float:
    """The share of the budget that is left once what was missed so far is taken off."""
    factor = 1.0
    for each in attempts:
        factor *= min(1.0, allowed / each["share_of_dense"])
    return factor


def _misses(attempt: dict, allowed: float) -> float:
    """By how much a network is slower than asked; 0 for one that is not."""
    return max(0.0, attempt["share_of_dense"] / allowed - 1 - CLOSE)
