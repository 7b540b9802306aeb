"""Knapsack over the table: the options of the greatest worth whose latency fits.

An option's worth is the summed importance of the channels it keeps, its price the table's (in the
manner of HALP, Shen et al. 2022, "Structural Pruning via Latency-Saliency Knapsack", arXiv
2210.06659, section 3.2). `solve` is exact, an integer programme; `solve_nearly` takes milliseconds.

Deviations:
1. HALP prices a layer's channels in groups, given the other layers, and repeats while it prunes.
   Here prices depend on pairs of decisions and all are decided at once, by an integer programme
   (scipy's HiGHS) with one unknown for every option and one for every combination in a layer.
2. A removable block is worth what its last layer writes into the shortcut, beside what the groups
   inside of it are worth; it is decided with the widths.
3. HALP removes the channels that it priced. Here an option is worth its most important channels,
   while the network is cut by the ranking that was asked for, which may keep others.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from scipy.optimize import LinearConstraint, milp
from scipy.sparse import coo_array

from pruner import SearchError
from pruner.search.completion import Completion, Factor
from pruner.search.problem import SearchProblem
from pruner.search.space import Kind

GAP, LARGEST_GAP = 1e-3, 1e-2
MOST_NODES = 20_000  # of the solver's tree: a limit in seconds would depend on the machine
PATIENCE_S = 1800  # then there is no answer, never another one
INFEASIBLE = 2  # the solver's word for it
CORRECTIONS = 5  # where prices are told by pairs only, and the sum is off
TOLERANCE = 1e-6  # to which the solver keeps its constraints
LOWEST_PRICE, HIGHEST_PRICE, HALVINGS = (
    1e-4,
    1e6,
    24,
)  # of the dense latency; all worth adds up to 1


def worth(completion: Completion, problem: SearchProblem) -> list[np.ndarray]:
    """For every decision the importance of each option, (options,); all add up to 1."""
    importance = problem.importance()
    is_sparse = any(decision.kind is Kind.DENSITY for decision in completion.decisions)
    of_weights = problem.weights_importance() if is_sparse else {}
    values = []
    for decision in completion.decisions:
        of_kind = of_weights if decision.kind is Kind.DENSITY else importance
        name = decision.name
        key = problem.network.key_of(name) if decision.is_block else name
        channels = np.sort(np.asarray(of_kind[key]))[::-1]
        if decision.is_block:
            values.append(np.array([0.0, channels.sum()]))
        elif decision.kind is Kind.DENSITY:
            kept = np.cumsum(channels)  # of hundredths of the weights
            shares = np.arange(1, len(kept) + 1) / len(kept)
            values.append(np.interp(decision.options, shares, kept))
        else:
            kept = np.cumsum(channels)
            values.append(np.array([kept[int(width) - 1] for width in decision.options]))
    total = sum(value[-1] for value in values)
    return [value / total for value in values]


def worth_factors(completion: Completion, values: Sequence[np.ndarray]) -> list[Factor]:
    """A group's worth counts only where the block it is inside of stays."""
    factors = []
    for index, value in enumerate(values):
        block = completion.space.block_around(index)
        if block is None:
            factors.append(Factor((index,), value))
        else:
            factors.append(Factor((block, index), np.stack([np.zeros_like(value), value])))
    return factors


def solve_nearly(
    completion: Completion, values: Sequence[np.ndarray], budget_s: float
) -> list[int]:
    """The same in milliseconds, without proof: one price for all seconds, the rest is spent.

    Lagrange's relaxation: the lowest price a second at which the best architecture meets the
    budget; the best one at a price is exact. Between two such architectures on the convex hull the
    remaining budget goes to what gains most for its seconds.
    """
    factors, unit = worth_factors(completion, values), 1 / completion.model.dense_s
    low, high = np.log(LOWEST_PRICE), np.log(HIGHEST_PRICE)
    found = None
    for _ in range(HALVINGS):
        price = (low + high) / 2
        positions = completion.best(factors, float(np.exp(price)) * unit)
        if completion.latency_s([positions])[0] <= budget_s:
            found, high = positions, price
        else:
            low = price
    if found is None:  # even at the highest price something else is worth more than time
        found = completion.positions(completion.fastest())
    return completion.spend(found, budget_s, values)


def solve(completion: Completion, values: Sequence[np.ndarray], budget_s: float) -> list[int]:
    """Positions of the greatest worth within the budget, to within LARGEST_GAP of it.

    A group's worth counts only where the block it is inside of stays. How close the answer comes
    depends on what the solver reaches within MOST_NODES. Raises SearchError if that is nothing.
    """
    programme = _Programme([len(decision.options) for decision in completion.decisions])
    for factor in worth_factors(completion, values):
        programme.gain(factor.scope, factor.values)
    for factor in completion.factors():
        programme.price(factor.scope, factor.values)
    asked_s = budget_s * (1 - TOLERANCE)
    for _ in range(CORRECTIONS):
        positions = programme.solve(asked_s - completion.constant_s)
        if positions is None:  # only the fastest architecture is that fast
            break
        positions = completion.canonical(positions)
        taken_s = completion.latency_s([positions])[0]
        if not completion.told_by_pairs or taken_s <= budget_s:
            return positions
        asked_s -= taken_s - budget_s
    return completion.positions(completion.fastest())


class _Programme:
    """Unknowns: one 0/1 for every option, one for every combination that is priced or worth."""

    def __init__(self, sizes: list[int]) -> None:
        self._sizes = sizes
        self._starts = np.cumsum([0, *sizes])
        self._count = int(self._starts[-1])
        self._gains: dict[tuple[int, ...], np.ndarray] = {}
        self._prices: dict[tuple[int, ...], np.ndarray] = {}

    def gain(self, scope: tuple[int, ...], values: np.ndarray) -> None:
        self._gains[scope] = self._gains.get(scope, 0) + values

    def price(self, scope: tuple[int, ...], seconds: np.ndarray) -> None:
        self._prices[scope] = self._prices.get(scope, 0) + seconds

    def solve(self, budget_s: float) -> list[int] | None:
        """Positions of the best options, None where none fits; raises SearchError if they were not
        found within MOST_NODES."""
        start_s = time.perf_counter()
        gain, price, ties, right = self._build()
        integral = np.zeros(len(gain))
        integral[: self._count] = 1
        answer = milp(
            -gain,
            integrality=integral,
            bounds=(0, 1),
            constraints=[
                LinearConstraint(ties, right, right),
                LinearConstraint(price[None] / budget_s, -np.inf, 1.0),
            ],
            options={"mip_rel_gap": GAP, "node_limit": MOST_NODES, "time_limit": PATIENCE_S},
        )
        if answer.status == INFEASIBLE:
            return None
        is_late = time.perf_counter() - start_s >= PATIENCE_S
        if is_late or answer.x is None or answer.mip_gap > LARGEST_GAP:
            raise SearchError(
                f"the solver did not finish the knapsack within {MOST_NODES} nodes or "
                f"{PATIENCE_S} s ({answer.message}). Ask for a smaller speedup, or use another "
                "method"
            )
        return [
            int(answer.x[start : start + size].argmax())
            for start, size in zip(self._starts, self._sizes, strict=False)
        ]

    def _build(self):
        """(gain and price of every unknown, the equations that tie them, their right sides)."""
        sizes, starts = self._sizes, self._starts
        gain, price = list(np.zeros((2, self._count)))
        rows: list[int] = []
        columns: list[int] = []
        entries: list[float] = []
        right: list[float] = []

        def equation(where, factors, equals) -> None:
            rows.extend([len(right)] * len(where))
            columns.extend(where)
            entries.extend(factors)
            right.append(equals)

        for start, size in zip(starts, sizes, strict=False):
            equation(range(start, start + size), [1.0] * size, 1.0)
        for scope in sorted({*self._gains, *self._prices}):
            shape = tuple(sizes[i] for i in scope)
            worth = np.broadcast_to(self._gains.get(scope, 0.0), shape)
            seconds = np.broadcast_to(self._prices.get(scope, 0.0), shape)
            if len(scope) == 1:
                part = slice(starts[scope[0]], starts[scope[0]] + sizes[scope[0]])
                gain[part] += worth
                price[part] += seconds
                continue
            first = len(gain)
            gain, price = np.append(gain, worth), np.append(price, seconds)
            cells = first + np.arange(worth.size).reshape(shape)
            # The combinations that have an option add up to that option's unknown.
            for axis, index in enumerate(scope):
                for option in range(sizes[index]):
                    inside = np.take(cells, option, axis=axis).ravel()
                    factors = [*np.ones(len(inside)), -1.0]
                    equation([*inside, starts[index] + option], factors, 0.0)
        ties = coo_array((entries, (rows, columns)), shape=(len(right), len(gain)))
        return gain, price, ties.tocsr(), right
