"""Filters by a layer criterion, what LayerPrune compares layers with: one threshold for them all.

The filters of the whole network are ranked by the scores that its layers are ranked by, and the
lowest go until the budget is met (Elkerdawy et al. 2020, arXiv 2007.05667). Widths are
rounded and what is left of the budget is spent as `pruner/search/methods/magnitude.py` does.
"""

from __future__ import annotations

from pydantic import Field

from lookup_tables.registry import OwnSettings
from pruner.search.methods.base import Method, one
from pruner.search.methods.magnitude import above_a_threshold
from pruner.search.problem import SearchProblem
from pruner.search.searcher import Search
from pruner.search.space import Kind


class FilterSettings(OwnSettings):
    """By what filters go."""

    layer_criterion: str = Field(
        "gate_taylor",
        description="By what filters are ranked: weight_magnitude, weight_taylor, gate_taylor, "
        "feature_map_taylor or batch_norm.",
    )


def search_by_filters(problem: SearchProblem, settings: FilterSettings) -> Search:
    """Scores one architecture."""
    yield [above_a_threshold(problem, problem.filter_scores(settings.layer_criterion))]


METHOD = Method(
    "filters",
    "one threshold on a layer criterion's scores of all filters",
    search_by_filters,
    FilterSettings,
    decides=frozenset({Kind.WIDTH}),
    scores=one,
)
