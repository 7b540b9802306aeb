"""Completion: the cheapest way to finish a half-decided architecture, so that budgets are met.

Groups are decided in the network's order. The latency model is a sum of terms over few groups
each, so the cheapest completion of any prefix follows exactly from eliminating the groups from
last to first (min-sum bucket elimination: Dechter 1999, "Bucket elimination: a unifying framework
for reasoning"). Where eliminating a group would need a table of more than LARGEST entries, its
narrowest width is taken instead: then the answer is a completion that exists, if not the cheapest,
and the budget still holds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import numpy as np

from lookup_tables.errors import BudgetError, ContractError
from lookup_tables.estimate import LatencyModel
from lookup_tables.network import Architecture

LARGEST = 1_000_000


@dataclass(frozen=True)
class _Factor:
    """Seconds over some groups' menu positions; `groups` ascend, the last one owns the factor."""

    groups: tuple[int, ...]
    seconds: np.ndarray

    def at(self, positions: list[int]) -> float:
        return float(self.seconds[tuple(positions[group] for group in self.groups)])


class Completion:
    """Answers: which widths may the next group take, and what is the fastest network at all."""

    def __init__(self, model: LatencyModel) -> None:
        self.model = model
        self.menus = [group.choices for group in model.network.groups]
        self.exact = True
        index = {group.name: i for i, group in enumerate(model.network.groups)}
        self._constant_s = model.calibration.b * model.dense_s
        self._own: list[list[_Factor]] = [[] for _ in self.menus]
        for term in model.terms:
            if not term.groups:
                self._constant_s += float(term.seconds)
                continue
            if not term.seconds.size:
                raise ContractError(
                    f"{len(term.groups)} groups meet in layer {term.layers[0].name}; their widths "
                    "have too many combinations to search. Give some of them fixed widths: take "
                    "`group` off their layers in the network file"
                )
            groups = tuple(index[name] for name in term.groups)
            self._own[max(groups)].append(_sorted_factor(groups, term.seconds))
        self._messages = self._eliminate()

    def cheapest_s(self, positions: list[int]) -> np.ndarray:
        """Seconds of the cheapest completion for every width of the next group: (choices,).

        `positions`: menu positions of the groups decided so far.
        """
        decided = len(positions)
        return np.array(
            [self._bound([*positions, choice]) for choice in range(len(self.menus[decided]))]
        )

    def allowed(self, positions: list[int], budget_s: float) -> np.ndarray:
        """Which widths of the next group can still meet the budget: (choices,) booleans."""
        return self.cheapest_s(positions) <= budget_s * (1 + 1e-9)

    def spend(self, positions: list[int], budget_s: float) -> list[int]:
        """Widen a finished architecture until nothing more fits: what is left of a budget is free.

        Each step widens the group whose next width costs the fewest seconds per share of it.
        """
        positions = list(positions)
        full = np.array([menu[-1] for menu in self.menus])
        while True:
            open_ = [i for i, menu in enumerate(self.menus) if positions[i] + 1 < len(menu)]
            now = np.array([menu[p] for menu, p in zip(self.menus, positions, strict=True)])
            wider = np.repeat(now[None], len(open_) + 1, axis=0)  # the last row stays as it is
            for row, group in enumerate(open_):
                wider[row, group] = self.menus[group][positions[group] + 1]
            latency_s = self.model.predict(wider).latency_s
            shares = (wider - now).sum(axis=1)[:-1] / full[open_]
            price = np.where(
                latency_s[:-1] <= budget_s, (latency_s[:-1] - latency_s[-1]) / shares, np.inf
            )
            if not open_ or np.isinf(price.min()):
                return positions
            positions[open_[int(price.argmin())]] += 1

    def fastest(self) -> Architecture:
        """The fastest architecture on the menu."""
        positions: list[int] = []
        for _ in self.menus:
            positions.append(int(self.cheapest_s(positions).argmin()))
        return self.architecture(positions)

    def architecture(self, positions: list[int]) -> Architecture:
        names = [group.name for group in self.model.network.groups]
        return Architecture(
            widths={n: m[p] for n, m, p in zip(names, self.menus, positions, strict=True)}
        )

    def require(
        self, budget_s: float, score: Callable[[Architecture], float] | None = None
    ) -> None:
        """Raise BudgetError if no architecture on the menu meets the budget.

        The error names the fastest one and its price: what it keeps and, with a `score`, its
        accuracy before fine-tuning.
        """
        fastest = self.fastest()  # exact, or, with very large tables, the narrowest completion
        fastest_s = self.model.latency_s(fastest)
        if fastest_s <= budget_s:
            return
        network, dense_s = self.model.network, self.model.dense_s
        kept = network.macs(network.widths(fastest)) / network.macs(network.widths(network.dense))
        price = f"it keeps {kept:.1%} of the multiply-accumulates"
        if score is not None:
            price += f" and gets {score(fastest):.1%} of held-out images right before fine-tuning"
        no = "no architecture" if self.exact else "no architecture that was found"
        raise BudgetError(
            f"{no} of {network.name} takes {budget_s * 1e3:.3f} ms "
            f"({dense_s / budget_s:.2f}×) on {self.model.device.name}. The fastest on the menu "
            f"takes {fastest_s * 1e3:.3f} ms ({dense_s / fastest_s:.2f}×), and its price is high: "
            f"{price}. Ask for less"
        )

    def _bound(self, positions: list[int]) -> float:
        decided = len(positions)
        total = self._constant_s
        for group in range(decided):
            total += sum(factor.at(positions) for factor in self._own[group])
        for sender in range(decided, len(self.menus)):
            for message in self._messages[sender]:
                if not message.groups or message.groups[-1] < decided:
                    total += message.at(positions)
        return total

    def _eliminate(self) -> list[list[_Factor]]:
        """What each group, once eliminated, says to the groups before it."""
        buckets = [list(factors) for factors in self._own]
        messages: list[list[_Factor]] = [[] for _ in self.menus]
        for group in reversed(range(len(self.menus))):
            scope = tuple(sorted({g for factor in buckets[group] for g in factor.groups} | {group}))
            sizes = [len(self.menus[g]) for g in scope]
            if prod(sizes) <= LARGEST:
                total = np.zeros(sizes)
                for factor in buckets[group]:
                    total = total + _broadcast(factor, scope)
                messages[group] = [_Factor(scope[:-1], total.min(axis=-1))]
            else:
                self.exact = False
                messages[group] = [
                    _Factor(f.groups[:-1], f.seconds[..., 0]) for f in buckets[group]
                ]
            for message in messages[group]:
                if message.groups:
                    buckets[message.groups[-1]].append(message)
        return messages


def _sorted_factor(groups: tuple[int, ...], seconds: np.ndarray) -> _Factor:
    order = np.argsort(groups)
    return _Factor(tuple(groups[i] for i in order), np.transpose(seconds, order))


def _broadcast(factor: _Factor, scope: tuple[int, ...]) -> np.ndarray:
    """The factor's seconds with an axis for every group in scope."""
    shape = [
        factor.seconds.shape[factor.groups.index(g)] if g in factor.groups else 1 for g in scope
    ]
    return factor.seconds.reshape(shape)
