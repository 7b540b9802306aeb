"""A search method: the narrowest network and the widest that fits, as a front."""

from pydantic import Field

from lookup_tables.registry import OwnSettings
from pruner.search.methods.base import Method
from pruner.search.problem import SearchProblem
from pruner.search.searcher import Search


class Ends(OwnSettings):
    """Which of the two are proposed."""

    with_narrowest: bool = Field(True, description="Whether the narrowest network is scored too.")


def search(problem: SearchProblem, settings: Ends) -> Search:
    """Both at once."""
    ends = [problem.completion.fallback(problem.budget_s)]
    yield [*ends, *([problem.completion.fastest()] if settings.with_narrowest else [])]


METHOD = Method("ends", "both ends of the menu", search, Ends, gives_front=True)
