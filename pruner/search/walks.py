"""Walks: many architectures decided side by side, one decision after the other, within a budget.

What a beginning costs, and at least has to cost, is a sum of few of the completion's factors
(`completion.py`); of many beginnings at once it is read from the same arrays.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from pruner.search.completion import Completion, Factor
from pruner.search.space import REMOVED


class Walks:
    """`count` architectures whose next decision is `index`.

    `positions`: (count, decisions) the option of every decision; of those that are still to be made
    the dense one. `now_s`: (count,) what such a network takes.
    """

    def __init__(self, prices: Prices, budget_s: float, count: int) -> None:
        self.prices, self.budget_s, self.index = prices, budget_s, 0
        self.positions = np.tile(np.array(prices.completion.space.dense), (count, 1))
        self.now_s = np.full(count, prices.dense_s)
        self._every = np.arange(count)

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def is_over(self) -> bool:
        return self.index == len(self.prices.completion.decisions)

    @cached_property
    def shares(self) -> np.ndarray:
        """(options,) what each option of the next decision keeps of the dense one."""
        return self.prices.shares[self.index]

    @cached_property
    def is_gone(self) -> np.ndarray:
        """(count,) whether a removed block takes the next decision with it."""
        block = self.prices.completion.space.block_around(self.index)
        if block is None:
            return np.zeros(len(self), dtype=bool)
        return self.positions[:, block] == REMOVED

    @cached_property
    def cheapest_s(self) -> np.ndarray:
        """(count, options) the least that a network with that option still takes."""
        return self.prices.cheapest_s(self.positions, self.index)

    @cached_property
    def differences_s(self) -> np.ndarray:
        """(count, options) what each option takes more than the dense one, all later ones dense."""
        return self.prices.differences(self.positions, self.index)

    def slopes(self) -> np.ndarray:
        """(count,) share of `now_s` that the next smaller option saves (`sensitivity.py`)."""
        if len(self.shares) < 2:
            return np.zeros(len(self))
        return -self.differences_s[:, -2] / self.now_s

    def nearest(self, shares: np.ndarray) -> np.ndarray:
        """(count,) the options closest to these shares that the budget allows."""
        allowed = self.cheapest_s <= self.budget_s * (1 + 1e-9)
        distance = np.where(allowed, np.abs(self.shares - shares[:, None]), np.inf)
        # Nothing is allowed where bounds are not exact, or a removed block decided already.
        none = ~allowed.any(axis=1)
        distance[none] = self.cheapest_s[none]
        return np.where(self.is_gone, len(self.shares) - 1, distance.argmin(axis=1))

    def take(self, options: np.ndarray) -> None:
        """Decide: one option for every architecture."""
        self.now_s = self.now_s + self.differences_s[self._every, options]
        self.positions[:, self.index] = options
        self.index += 1
        for of_a_step in ("shares", "is_gone", "cheapest_s", "differences_s"):
            self.__dict__.pop(of_a_step, None)


class Prices:
    """What walks look up: for every decision the factors that it touches, and the bounds."""

    def __init__(self, completion: Completion) -> None:
        self.completion = completion
        self.shares = [np.array(d.options) / d.full for d in completion.decisions]
        factors = completion.factors()
        self._touched = [
            [factor for factor in factors if index in factor.scope]
            for index in range(len(completion.decisions))
        ]
        dense = completion.space.dense
        self.dense_s = completion.constant_s + sum(factor.at(dense) for factor in factors)

    def walk(self, budget_s: float, count: int) -> Walks:
        """`count` architectures of which nothing is decided yet."""
        return Walks(self, budget_s, count)

    def cheapest_s(self, positions: np.ndarray, index: int) -> np.ndarray:
        """(n, options of decision `index`) bounds of all beginnings; what follows is not read."""
        if self.completion.told_by_pairs:
            beginnings = [[*map(int, row[:index])] for row in positions]
            return np.array([self.completion.cheapest_s(each) for each in beginnings])
        seconds, factors = self._bounds[index]
        total = np.full((len(positions), len(self.shares[index])), seconds)
        for factor in factors:
            total = total + self._looked_up(factor, positions, index)
        return total

    def differences(self, positions: np.ndarray, index: int) -> np.ndarray:
        """(n, options of decision `index`) seconds more than with its dense option."""
        total = np.zeros((len(positions), len(self.shares[index])))
        for factor in self._touched[index]:
            total = total + self._looked_up(factor, positions, index)
        return total - total[:, -1:]

    def _looked_up(self, factor: Factor, positions: np.ndarray, index: int) -> np.ndarray:
        """(n, options), or (n, 1) where the decision is not among the factor's."""
        options = np.arange(len(self.shares[index]))[None]
        return factor.values[
            tuple(options if i == index else positions[:, i, None] for i in factor.scope)
        ]

    @cached_property
    def _bounds(self) -> list[tuple[float, list[Factor]]]:
        return [self.completion.bound_of(index) for index in range(len(self.shares))]
