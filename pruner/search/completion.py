"""Completion: the cheapest way to finish a half-decided architecture, so that budgets are met.

Widths, blocks and densities, as far as they are searched, are decided in the network's order. The
latency model is a sum of terms over few decisions each, so the cheapest completion of any prefix
follows exactly from eliminating the decisions from last to first (min-sum bucket elimination:
Dechter 1999, "Bucket elimination: a unifying framework for reasoning"). Where eliminating one would
need a table of more than LARGEST entries, its smallest option is taken instead: then the answer is
a completion that exists, if not the cheapest, and the budget still holds.

A layer behind a long concatenation, as in a DenseNet, reads more groups than can be tabulated. What
it takes is then told by pairs of decisions, each beside the middle of all others' menus, and every
bound is the prediction of the completion that takes all smallest options.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import numpy as np

from lookup_tables.architecture import Architecture
from lookup_tables.errors import BudgetError, ContractError
from lookup_tables.model.latency_model import DENSITIES, LatencyModel, Term
from pruner.search.space import KEPT, REMOVED, Kind, SearchSpace

LARGEST = 1_000_000
TIED = 100  # times the dense network's seconds, for what cannot be


@dataclass(frozen=True)
class Factor:
    """Values over some decisions' positions; `scope` ascends, the last one owns the factor."""

    scope: tuple[int, ...]
    values: np.ndarray

    def at(self, positions: Sequence[int]) -> float:
        return float(self.values[tuple(positions[i] for i in self.scope)])


class _Larger(NamedTuple):
    """A larger architecture, and what it is worth more."""

    positions: list[int]
    gain: float


class Completion:
    """Answers: which options may the next decision take, and what is the fastest network at all."""

    def __init__(self, model: LatencyModel, space: SearchSpace | None = None) -> None:
        """`space`: what is decided, the model's network's widths by default.

        Raises ContractError for a kind of decision that the model does not price.
        """
        self.model = model
        self.space = space or SearchSpace.of(model.network)
        self.decisions = self.space.decisions
        self.menus = [decision.options for decision in self.decisions]
        self.exact = True
        network, at = model.network, self.space.at
        self._of_groups = [at[Kind.WIDTH, group.name] for group in network.groups]
        has_blocks = self.space.has_blocks
        self._of_blocks = [at.get((Kind.BLOCK, b.name)) for b in network.blocks]
        self._of_blocks = self._of_blocks if has_blocks else []
        self._of_densities = [
            (i, at.get((Kind.DENSITY, n))) for i, n in enumerate(model.sparse_layers)
        ]
        self._constant_s = model.calibration.b * model.dense_s
        self._own: list[list[Factor]] = [[] for _ in self.menus]
        self.told_by_pairs = False  # what some layer takes
        self._price_terms()
        self._messages, _ = self._eliminate(self._own)

    def _price_terms(self) -> None:
        """Every term of the model becomes a factor of the last decision that it depends on."""
        at = self.space.at
        densities = [d.name for d in self.decisions if d.kind is Kind.DENSITY]
        unpriced = [name for name in densities if name not in self.model.sparse_layers]
        if unpriced:
            raise ContractError(
                f"the table of {self.model.device.name} has no sparse kernels, so it cannot "
                f"predict the density of {unpriced[0]}; search widths and blocks"
            )
        for term in self.model.terms:
            scope = [at[Kind.WIDTH, group] for group in term.groups]
            block = at.get((Kind.BLOCK, term.block)) if term.block else None
            if not term.seconds.size:
                self._price_by_pairs(term)
                continue
            density = at.get((Kind.DENSITY, term.sparse)) if term.sparse else None
            seconds = term.seconds
            if density is not None:
                options = self.decisions[density].options
                seconds = seconds[..., [DENSITIES.index(share) for share in options]]
                scope.append(density)
            elif term.sparse:
                seconds = seconds[..., -1]
            self._add(scope, seconds, block)
        for tie in self.space.ties:
            self._tie(*tie)

    def _tie(self, block: int, own: int, read: int) -> None:
        """Without a plain layer its group is as wide as what it read; all else takes too long."""
        differs = np.not_equal.outer(self.menus[read], self.menus[own])
        seconds = np.stack(
            [differs * (TIED * self.model.dense_s), np.zeros(differs.shape)], axis=-1
        )
        scope = (read, own, block)
        self._own[max(scope)].append(_sorted_factor(scope, seconds))

    def _add(self, scope: list[int], seconds: np.ndarray, block: int | None) -> None:
        if not scope and block is None:
            self._constant_s += float(seconds)
            return
        if block is not None:  # nothing where the block is removed
            scope = [*scope, block]
            seconds = np.stack([np.zeros_like(seconds), seconds], axis=-1)
        self._own[max(scope)].append(_sorted_factor(tuple(scope), seconds))

    def _price_by_pairs(self, term: Term) -> None:
        """Each group's own part beside the middle of the others, for every width written."""
        self.told_by_pairs, self.exact = True, False
        network, at = self.model.network, self.space.at
        block = at.get((Kind.BLOCK, term.block)) if term.block else None
        menus = {name: np.array(network.group[name].choices) for name in term.groups}
        middle = {name: menu[len(menu) // 2] for name, menu in menus.items()}
        writes = {n for x in term.layers for n, _ in network.geometry[x.name].out_form.factors}
        reads = {n for x in term.layers for n, _ in network.geometry[x.name].in_form.factors}
        own = sorted(writes - reads)[:1]  # one decides beside all that are read
        beside = {name: menus[name] for name in own}
        base_s = self.model.seconds_of(term, middle | beside)
        self._add([at[Kind.WIDTH, name] for name in own], base_s, block)
        for name in term.groups:
            if name not in own:
                each = {name: menus[name][:, None] if own else menus[name]}
                seconds = self.model.seconds_of(term, middle | beside | each) - base_s
                self._add([at[Kind.WIDTH, n] for n in (name, *own)], seconds, block)

    @property
    def constant_s(self) -> float:
        """Seconds that no decision changes."""
        return self._constant_s

    def factors(self) -> list[Factor]:
        """What the decisions cost: the latency is the sum of these and the constant, or nearly so
        where some layer is told by pairs."""
        return [factor for factors in self._own for factor in factors]

    def cheapest_s(self, positions: list[int]) -> np.ndarray:
        """Seconds of the cheapest completion for every option of the next decision: (options,).

        `positions`: what was decided so far.
        """
        decided = len(positions)
        if self.told_by_pairs:
            rest = [0] * (len(self.menus) - decided - 1)
            options = range(len(self.menus[decided]))
            return self.latency_s([[*positions, choice, *rest] for choice in options])
        seconds, factors = self.bound_of(decided)
        each = range(len(self.menus[decided]))
        return np.array([seconds + sum(f.at([*positions, o]) for f in factors) for o in each])

    def allowed(self, positions: list[int], budget_s: float) -> np.ndarray:
        """Which options of the next decision can still meet the budget: (options,) booleans."""
        return self.cheapest_s(positions) <= budget_s * (1 + 1e-9)

    def spend(
        self,
        positions: Sequence[int],
        budget_s: float,
        values: Sequence[np.ndarray] | None = None,
    ) -> list[int]:
        """Widen a finished architecture until nothing more fits: what is left of a budget is free.

        Each step widens the group whose next width costs the fewest seconds for what it is worth:
        `values` has the worth of every decision's options, without it a share is worth a share.
        Where no group can grow any more, a removed block comes back with its groups at their
        narrowest, and they grow in turn.
        """
        values = self._shares() if values is None else values
        positions = self.canonical(positions)
        while True:
            for larger in (self._wider(positions, values), self._deeper(positions, values)):
                found = self._cheapest(positions, larger, budget_s)
                if found is not None:
                    break
            else:
                return positions
            positions = found

    def _shares(self) -> list[np.ndarray]:
        """Of every decision's options, the share that each keeps."""
        return [np.array(decision.options) / decision.full for decision in self.decisions]

    def _wider(self, positions: list[int], values: Sequence[np.ndarray]) -> list[_Larger]:
        """Each group that can grow, one step wider."""
        follow = {own for block, own, _ in self.space.ties if positions[block] == REMOVED}
        return [
            _Larger(
                self.canonical([*positions[:i], positions[i] + 1, *positions[i + 1 :]]),
                float(values[i][positions[i] + 1] - values[i][positions[i]]),
            )
            for i, decision in enumerate(self.decisions)
            if not decision.is_block
            and i not in follow
            and positions[i] + 1 < len(decision.options)
        ]

    def _deeper(self, positions: list[int], values: Sequence[np.ndarray]) -> list[_Larger]:
        """Each removed block back in its place, its own groups at their narrowest."""
        found = []
        for i, block in enumerate(self.decisions):
            if not block.is_block or positions[i] != REMOVED:
                continue
            inside = self.space.inside_of(i)
            deeper = list(positions)
            deeper[i] = KEPT
            for j in inside:
                deeper[j] = 0
            gain = values[i][KEPT] - values[i][REMOVED] + sum(values[j][0] for j in inside)
            found.append(_Larger(deeper, float(gain)))
        return found

    def _cheapest(
        self, positions: list[int], larger: list[_Larger], budget_s: float
    ) -> list[int] | None:
        """The one that costs fewest seconds for what it is worth; None where none fits."""
        if not larger:
            return None
        *latency_s, now_s = self.latency_s([*(each.positions for each in larger), positions])
        gains = np.array([max(each.gain, 1e-12) for each in larger])
        price = np.where(
            np.array(latency_s) <= budget_s, (np.array(latency_s) - now_s) / gains, np.inf
        )
        return None if np.isinf(price.min()) else larger[int(price.argmin())].positions

    def latency_s(self, rows: Sequence[Sequence[int]]) -> np.ndarray:
        """Seconds of finished architectures, given by their positions: (len(rows),)."""
        options = np.array(
            [[d.options[p] for d, p in zip(self.decisions, row, strict=True)] for row in rows]
        )
        widths = options[:, self._of_groups].astype(int)  # densities are not whole
        removed = np.zeros((len(options), len(self._of_blocks)), dtype=bool)
        for column, decision in enumerate(self._of_blocks):
            if decision is not None:
                removed[:, column] = options[:, decision] == REMOVED
        densities = np.ones((len(options), len(self._of_densities)))
        for layer, decision in self._of_densities:
            if decision is not None:
                densities[:, layer] = options[:, decision]
        gone = removed if self._of_blocks else None
        return self.model.predict(widths, gone, densities).latency_s

    def canonical(self, positions: Sequence[int]) -> list[int]:
        """The same architecture's one encoding."""
        return self.space.canonical(positions)

    def is_gone(self, index: int, positions: Sequence[int]) -> bool:
        """Whether a removed block takes this decision with it."""
        return self.space.is_gone(index, positions)

    def fastest(self) -> Architecture:
        """The fastest architecture on the menu."""
        positions: list[int] = []
        for _ in self.menus:
            positions.append(int(self.cheapest_s(positions).argmin()))
        return self.architecture(positions)

    def fallback(self, budget_s: float) -> Architecture:
        """The fastest architecture with the rest of the budget spent: where a method's own way
        finds nothing that fits."""
        return self.architecture(self.spend(self.positions(self.fastest()), budget_s))

    def positions(self, architecture: Architecture) -> list[int]:
        """Of every decision the option that an architecture on the menu takes."""
        return self.space.encode(architecture)

    def architecture(self, positions: Sequence[int]) -> Architecture:
        return self.space.decode(positions)

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
        kept = network.macs_of(fastest) / network.macs_of(network.dense)
        price = f"it keeps {kept:.1%} of the multiply-accumulates"
        if score is not None:
            price += f" and gets {score(fastest):.1%} of held-out images right before fine-tuning"
        no = "no architecture" if self.exact else "no architecture that was found"
        which, further = "The fastest with candidate widths", ""
        free = [decision for decision in self.decisions if len(decision.options) > 1]
        if free and all(decision.is_block for decision in free):
            which = f"Without all {len(free)} layers and blocks that can go it"
            further = ", or also narrow layers (--method thompson --depth) or leave out weights "
            further += "(--density)"
        raise BudgetError(
            f"{no} for {network.name} reaches {budget_s * 1e3:.3f} ms ({dense_s / budget_s:.2f}×) "
            f"on {self.model.device.name}. {which} takes "
            f"{fastest_s * 1e3:.3f} ms ({dense_s / fastest_s:.2f}×), but {price}. Ask for a "
            f"smaller speedup{further}"
        )

    def bound_of(self, index: int) -> tuple[float, list[Factor]]:
        """What bounds a network whose decisions up to `index` are made: seconds, and factors of
        those decisions; the sum is what its cheapest completion takes."""
        known = [factor for factors in self._own[: index + 1] for factor in factors]
        seconds = self._constant_s
        for message in (m for messages in self._messages[index + 1 :] for m in messages):
            if not message.scope:
                seconds += float(message.values)
            elif message.scope[-1] <= index:
                known.append(message)
        return seconds, known

    def best(self, worth: Sequence[Factor], price: float) -> list[int]:
        """Positions of the greatest worth less `price` times seconds; exact as the bounds are.

        `worth`: factors as `factors()` gives them, in any unit, to be added up.
        """
        own = [
            [Factor(factor.scope, price * factor.values) for factor in factors]
            for factors in self._own
        ]
        for factor in worth:
            own[factor.scope[-1]].append(Factor(factor.scope, -factor.values))
        _, choices_made = self._eliminate(own)
        positions: list[int] = []
        for choice in choices_made:
            positions.append(int(choice.at(positions)))
        return self.canonical(positions)

    def _eliminate(
        self, own: Sequence[Sequence[Factor]]
    ) -> tuple[list[list[Factor]], list[Factor]]:
        """What each decision, once eliminated, says to those before it, and its own best option."""
        buckets = [list(factors) for factors in own]
        messages: list[list[Factor]] = [[] for _ in self.menus]
        best: list[Factor] = [Factor((), np.zeros(()))] * len(self.menus)
        for last in reversed(range(len(self.menus))):
            scope = tuple(sorted({i for factor in buckets[last] for i in factor.scope} | {last}))
            sizes = [len(self.menus[i]) for i in scope]
            if prod(sizes) <= LARGEST:
                total = np.zeros(sizes)
                for factor in buckets[last]:
                    total = total + _broadcast(factor, scope)
                messages[last] = [Factor(scope[:-1], total.min(axis=-1))]
                best[last] = Factor(scope[:-1], total.argmin(axis=-1))
            else:
                self.exact = False
                messages[last] = [Factor(f.scope[:-1], f.values[..., 0]) for f in buckets[last]]
            for message in messages[last]:
                if message.scope:
                    buckets[message.scope[-1]].append(message)
        return messages, best


def _sorted_factor(scope: tuple[int, ...], seconds: np.ndarray) -> Factor:
    order = np.argsort(scope)
    return Factor(tuple(scope[i] for i in order), np.transpose(seconds, order))


def _broadcast(factor: Factor, scope: tuple[int, ...]) -> np.ndarray:
    """The factor's seconds with an axis for every decision in scope."""
    shape = [factor.values.shape[factor.scope.index(i)] if i in factor.scope else 1 for i in scope]
    return factor.values.reshape(shape)
