"""JCW: one evolution for every budget, over widths and densities together.

Zhao et al. 2022, "Multi-granularity Pruning for Model Acceleration on Mobile Devices" (ECCV; arXiv
2110.08013, "Joint Channel and Weight Pruning"): NSGA-II (Deb et al. 2002) over the share of every
layer's channels and weights, with simulated binary crossover and polynomial mutation. Its own part
is the selection, which keeps a population spread over the whole range of latencies: for each of a
few target latencies T_k candidates are sorted into fronts of (loss, |T - T_k|), and the targets
fill the next generation by turns, front after front.

Deviations:
1. A share is snapped to the nearest candidate of the table's menu, where the paper has steps of
   0.1; a duplicate is what decodes to the same network.
2. Accuracy is the score that all methods use, of refitted weights; the paper trains shared weights
   in each generation.
3. The first generation has the fastest network within the limits and the dense one; each of the
   others is drawn around a level of its own. Shares drawn evenly have all the same latency, in a
   network of many layers.
4. With `--depth`, blocks are genes too: below one half a block goes.
5. The last front that fits only partly is cut by crowding distance, as NSGA-II does; the paper does
   not say by what. Targets lie at equal distances from the budget to the dense network's latency.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from pydantic import Field
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.evaluator import Evaluator
from pymoo.core.problem import Problem
from pymoo.core.repair import Repair
from pymoo.core.survival import Survival
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM
from pymoo.operators.survival.rank_and_crowding.metrics import get_crowding_function
from pymoo.problems.static import StaticProblem
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

from lookup_tables.network import Layer, Network
from lookup_tables.registry import OwnSettings
from pruner import SearchError
from pruner.search.completion import Completion
from pruner.search.methods.base import Method
from pruner.search.problem import SearchProblem
from pruner.search.searcher import Search
from pruner.search.space import Decision, Kind, SearchSpace

SPREAD = 0.25  # of a first share around its individual's level


class JcwSettings(OwnSettings):
    """How large the evolution is, and how little a layer may keep: the paper's numbers."""

    population: int = Field(64, ge=4, description="Candidates of a generation.")
    generations: int = Field(128, ge=1, description="How many generations there are.")
    targets: int = Field(
        4, ge=1, description="Target latencies that each generation is spread over."
    )
    least_width: float = Field(0.5, ge=0, le=1, description="Least share of a layer's channels.")
    least_width_first: float = Field(0.8, ge=0, le=1, description="Of the first layer's.")
    least_width_strided: float = Field(
        0.6, ge=0, le=1, description="Of channels that a layer with a stride writes."
    )
    least_width_shortcut: float = Field(
        0.9, ge=0, le=1, description="Of channels that a shortcut adds up."
    )
    least_density: float = Field(0.3, ge=0, le=1, description="Least share of a layer's weights.")
    least_density_first: float = Field(
        0.8, ge=0, le=1, description="Of the first layer's, and of those with a stride."
    )
    least_density_last: float = Field(0.5, ge=0, le=1, description="Of the last layer's.")


def search_by_evolution(problem: SearchProblem, settings: JcwSettings) -> Search:
    """Scores up to `population` architectures in each of `generations`."""
    completion = _within_limits(problem, settings)
    genome = Genome(completion)
    slowest_s = float(completion.latency_s([completion.space.dense])[0])
    targets_s = np.linspace(problem.budget_s, slowest_s, settings.targets).tolist()
    evolution = Evolution(
        genome, targets_s, settings.population, settings.generations, problem.seed
    )
    while batch := evolution.ask():
        scored = yield [completion.architecture(row) for row in batch]
        evolution.tell([each.accuracy for each in scored])


def require_within_limits(problem: SearchProblem, settings: JcwSettings) -> None:
    """Raise SearchError where the least shares do not allow the budget."""
    completion = _within_limits(problem, settings)
    fastest_s = completion.model.latency_s(completion.fastest())
    if fastest_s > problem.budget_s * (1 + 1e-9):
        raise SearchError(
            f"jcw: with these least shares the fastest network takes {fastest_s * 1e3:.3f} ms, and "
            f"{problem.budget_s * 1e3:.3f} ms were asked for. Lower --least-width, --least-density "
            "and their like, or ask for a larger budget"
        )


class Genome:
    """A share for every decision, and the candidate that it stands for."""

    def __init__(self, completion: Completion) -> None:
        self.completion = completion
        self._shares = [_shares(decision) for decision in completion.decisions]

    def __len__(self) -> int:
        return len(self._shares)

    def positions(self, genes: Sequence[float]) -> list[int]:
        """(decisions,) genes from 0 to 1 → the nearest options, in their one encoding."""
        nearest = [
            int(np.abs(shares - gene).argmin())
            for shares, gene in zip(self._shares, genes, strict=True)
        ]
        return self.completion.canonical(nearest)

    def snapped(self, genes: np.ndarray) -> np.ndarray:
        """(n, decisions) genes → those of the candidates that they stand for."""
        rows = [self._genes(self.positions(row)) for row in genes]
        return np.array(rows).reshape(genes.shape)

    def first(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """(count, decisions) genes of a first generation, each around a level of its own."""
        level = rng.random((count, 1))
        around = level + rng.uniform(-SPREAD, SPREAD, (count, len(self)))
        low = np.array([shares[0] for shares in self._shares])
        high = np.array([shares[-1] for shares in self._shares])
        genes = low + np.clip(around, 0, 1) * (high - low)
        blocks = [decision.is_block for decision in self.completion.decisions]
        genes[:, blocks] = rng.random((count, sum(blocks))) < np.sqrt(level)  # most stay
        genes[0] = self._genes(self.completion.positions(self.completion.fastest()))
        genes[-1] = high
        return self.snapped(genes)

    def _genes(self, positions: Sequence[int]) -> list[float]:
        return [float(s[p]) for s, p in zip(self._shares, positions, strict=True)]


class Evolution:
    """NSGA-II with the paper's selection: asked for candidates, told their accuracies."""

    def __init__(
        self,
        genome: Genome,
        targets_s: Sequence[float],
        population: int,
        generations: int,
        seed: int,
    ) -> None:
        self._genome = genome
        self._problem = Problem(n_var=len(genome), n_obj=2, xl=0.0, xu=1.0)
        self._algorithm = NSGA2(
            pop_size=population,
            sampling=genome.first(population, np.random.default_rng(seed)),
            crossover=SBX(prob=0.9, eta=15),
            mutation=PM(eta=20),
            survival=_BySeveralTargets(targets_s),
            repair=_ToCandidates(genome),
            eliminate_duplicates=True,
        )
        self._algorithm.tournament_type = "comp_by_rank_and_crowding"  # by the fronts above
        self._algorithm.setup(self._problem, termination=("n_gen", generations), seed=seed)

    def ask(self) -> list[list[int]]:
        """The next generation's positions; none when the evolution is over."""
        self._asked = self._algorithm.ask() if self._algorithm.has_next() else None
        if self._asked is None or not len(self._asked):
            return []
        self._rows = [self._genome.positions(genes) for genes in self._asked.get("X")]
        return self._rows

    def tell(self, accuracies: Sequence[float]) -> None:
        """The accuracies of what was asked, in that order."""
        latency_s = self._genome.completion.latency_s(self._rows)
        objectives = np.column_stack([1 - np.array(accuracies), latency_s])
        Evaluator().eval(StaticProblem(self._problem, F=objectives), self._asked)
        self._algorithm.tell(infills=self._asked)


@dataclass(frozen=True)
class Selected:
    """One that goes on: which of the candidates, and the front and crowding it was taken by."""

    index: int
    front: int
    crowding: float


def select(objectives: np.ndarray, targets_s: Sequence[float], count: int) -> list[Selected]:
    """Which of (n, 2) losses and latencies go on: the targets take turns, front after front.

    The paper's selection. Of a front that no longer fits whole the least crowded go on.
    """
    crowding_of = get_crowding_function("cd").do
    loss, latency_s = objectives.T
    seen_by = [np.column_stack([loss, np.abs(latency_s - target)]) for target in targets_s]
    fronts_of = [NonDominatedSorting().do(seen) for seen in seen_by]
    found: dict[int, Selected] = {}
    for number in range(max(map(len, fronts_of), default=0)):
        for seen, fronts in zip(seen_by, fronts_of, strict=True):
            if number >= len(fronts):
                continue
            front = fronts[number]
            crowding = dict(zip(front.tolist(), crowding_of(seen[front]).tolist(), strict=True))
            fresh = sorted((i for i in crowding if i not in found), key=lambda i: -crowding[i])
            for index in fresh[: count - len(found)]:
                found[index] = Selected(index, number, crowding[index])
            if len(found) == count:
                return [*found.values()]
    return [*found.values()]


class _BySeveralTargets(Survival):
    """`select`, as pymoo takes it."""

    def __init__(self, targets_s: Sequence[float]) -> None:
        super().__init__(filter_infeasible=False)
        self._targets_s = targets_s

    def _do(self, problem, pop, *args, n_survive=None, **kwargs):
        chosen = select(pop.get("F"), self._targets_s, n_survive)
        for each in chosen:
            pop[each.index].set("rank", each.front)
            pop[each.index].set("crowding", each.crowding)
        return pop[[each.index for each in chosen]]


class _ToCandidates(Repair):
    """Snapping to candidates, as pymoo takes it."""

    def __init__(self, genome: Genome) -> None:
        super().__init__()
        self._genome = genome

    def _do(self, problem, genes, **kwargs):
        return self._genome.snapped(genes)


def _shares(decision: Decision) -> np.ndarray:
    """The genes of a decision's options; a block's are 0, where it goes, and 1."""
    return np.array(decision.options) / decision.full


def _within_limits(problem: SearchProblem, settings: JcwSettings) -> Completion:
    """The same decisions, without options below the least shares."""
    network = problem.network
    least = dict(_least_shares(network, settings))
    decisions = [
        d if d.is_block else replace(d, options=_from(d.options, least.get((d.kind, d.name), 0.0)))
        for d in problem.space.decisions
    ]
    menu = {d.name: tuple(map(int, d.options)) for d in decisions if d.kind is Kind.WIDTH}
    smaller = network.with_menu(menu)
    return Completion(problem.cost.with_menu(smaller), SearchSpace(smaller, decisions))


def _from(options: tuple[float, ...], share: float) -> tuple[float, ...]:
    return tuple(each for each in options if each >= share * options[-1] * (1 - 1e-9))


def _least_shares(
    network: Network, settings: JcwSettings
) -> Iterator[tuple[tuple[Kind, str], float]]:
    """Of every group and every layer with weights, the least share that it keeps."""
    weighted = [layer for layer in network.layers if layer.channels is not None]
    if not weighted:
        return
    first, last = weighted[0], weighted[-1]
    for group in network.groups:
        writers = [layer for layer in weighted if layer.group == group.name]
        limits = [settings.least_width]
        if first in writers:
            limits.append(settings.least_width_first)
        if any(_has_stride(layer) for layer in writers):
            limits.append(settings.least_width_strided)
        if len(writers) > 1 or any(layer.residual for layer in writers):
            limits.append(settings.least_width_shortcut)
        yield (Kind.WIDTH, group.name), max(limits)
    for layer in weighted:
        limits = [settings.least_density]
        if layer is first or _has_stride(layer):
            limits.append(settings.least_density_first)
        if layer is last:
            limits.append(settings.least_density_last)
        yield (Kind.DENSITY, layer.name), max(limits)


def _has_stride(layer: Layer) -> bool:
    return max(layer.stride) > 1


METHOD = Method(
    "jcw",
    "NSGA-II over widths and densities, for all budgets at once (JCW)",
    search_by_evolution,
    JcwSettings,
    scores=lambda settings: settings.population * settings.generations,
    check=require_within_limits,
    gives_front=True,
)
