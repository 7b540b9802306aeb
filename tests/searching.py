"""Search problems on a latency model, and methods run against a score."""

from lookup_tables.model.latency_model import LatencyModel
from pruner.search.completion import Completion
from pruner.search.methods import METHODS
from pruner.search.methods.jcw import JcwSettings
from pruner.search.problem import SearchProblem
from pruner.search.searcher import Scored, Searcher
from pruner.search.space import Kind, SearchSpace

WIDTHS = frozenset({Kind.WIDTH})
# What methods are set to where their usual size takes minutes.
QUICK = {
    "jcw": {"population": 8, "generations": 4}
    | {name: 0.0 for name in JcwSettings.model_fields if name.startswith("least_")},
    "lap": {"imagined": 4},
}
WIDTHS_AND_BLOCKS = frozenset({Kind.WIDTH, Kind.BLOCK})


def space_of(network, depth: bool = False) -> SearchSpace:
    return SearchSpace.of(network, WIDTHS_AND_BLOCKS if depth else WIDTHS)


def completion_of(latency: LatencyModel, depth: bool = False) -> Completion:
    return Completion(latency, space_of(latency.network, depth))


def problem_of(latency: LatencyModel, budget_s: float, depth: bool = False, **fields):
    return SearchProblem(space_of(latency.network, depth), latency, budget_s, **fields)


def search(method: str, problem: SearchProblem, score, at_once: int = 1, **own) -> list:
    """Run a method against a score; what it asked for, in its order."""
    entry, asked = METHODS[method], []
    if Kind.BLOCK not in entry.decides:
        problem = SearchProblem(
            space_of(problem.network), problem.cost, problem.budget_s, problem.episodes,
            problem.at_once, problem.seed, problem.importance, problem.magnitudes,
            filter_scores=problem.filter_scores,
        )  # fmt: skip
    searcher = Searcher(entry.make(problem, entry.settings(**own)))
    try:
        while batch := searcher.ask(at_once):
            asked += batch
            searcher.tell([Scored(a, score(a), problem.cost.latency_s(a)) for a in batch])
    finally:
        searcher.close()
    return asked
