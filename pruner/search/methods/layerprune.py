"""LayerPrune: whole layers go, the least important first, until the budget is met.

Elkerdawy et al. 2020, "To Filter Prune, or to Layer Prune, That Is The Question" (arXiv
2007.05667): every layer that keeps shape is scored once (`pruner/criteria/layers.py`), the lowest
go, and one fine-tuning follows. Down-sampling blocks stay, as they change shape.

Deviations:
1. The paper asks for a number of layers; here they go until the table's latency meets the budget.
2. `iterative` scores what is left anew after each removal, with refitted weights, which the paper
   says is not needed.
3. What is left is refitted before fine-tuning, as all candidates are; `--no-reconstruct` leaves it.
"""

from __future__ import annotations

from pydantic import Field

from lookup_tables.registry import OwnSettings
from pruner.search.methods.base import Method, one
from pruner.search.problem import SearchProblem
from pruner.search.searcher import Search
from pruner.search.space import REMOVED, Kind


class LayerPruneSettings(OwnSettings):
    """By what layers go, and how often they are judged."""

    layer_criterion: str = Field(
        "imprinting",
        description="By what layers are ranked: weight_magnitude, weight_taylor, gate_taylor, "
        "feature_map_taylor, batch_norm, imprinting or ensemble.",
    )
    iterative: bool = Field(
        False, description="Whether layers are ranked again after each one that goes."
    )


def search_by_layers(problem: SearchProblem, settings: LayerPruneSettings) -> Search:
    """Scores one architecture."""
    completion, space = problem.completion, problem.space
    positions, removed = list(space.dense), list[str]()
    scores = dict(problem.layer_scores(settings.layer_criterion, ()))
    left = [decision.name for decision in space.decisions if decision.is_block]
    while left and completion.latency_s([positions])[0] > problem.budget_s:
        if settings.iterative and removed:
            scores = dict(problem.layer_scores(settings.layer_criterion, removed))
        least = min(left, key=scores.__getitem__)
        left.remove(least)
        removed.append(least)
        positions[space.at[Kind.BLOCK, least]] = REMOVED
        positions = completion.canonical(positions)
    yield [completion.architecture(positions)]


METHOD = Method(
    "layerprune",
    "whole layers, the least important first until the budget is met",
    search_by_layers,
    LayerPruneSettings,
    decides=frozenset({Kind.BLOCK}),
    scores=one,
)
