"""Questions that one comparison answers: drop layers, or thin them?

By one criterion and one recipe, within the same latency budgets: whole layers removed, the filters
of all layers thinned, or both. LayerPrune's question (Elkerdawy et al. 2020, arXiv 2007.05667),
asked of one device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pruner import RunError
from pruner.criteria.layers import LAYER_CRITERIA

QUESTIONS = ("depth",)
CRITERION = "batch_norm"  # of those that score filters, the best at layers (docs/results/layers.md)
LAYERS, FILTERS, BOTH = "layers dropped", "layers thinned", "both"


@dataclass(frozen=True)
class Answer:
    """What a budget leaves of the accuracy: the ways, the best first, and a sentence about it."""

    asked: float | None
    asked_ms: float | None
    criterion: str
    rows: tuple[tuple[str, dict], ...]  # a way, and its entry of the comparison's summary
    told: str


def methods_of(question: str, criterion: str) -> dict[str, str]:
    """The methods that a comparison needs, by what each of them does; raises RunError."""
    if question not in QUESTIONS:
        raise RunError(f"--question {question!r} is unknown; choose from {', '.join(QUESTIONS)}")
    LAYER_CRITERIA.choose(criterion, RunError).require_channels()
    return {
        f"layerprune:layer_criterion={criterion}": LAYERS,
        f"filters:layer_criterion={criterion}": FILTERS,
        f"knapsack:worth={criterion},depth=true": BOTH,
    }


def answers(summary: Sequence[dict], question: str, criterion: str) -> list[Answer]:
    """One answer for every budget that was asked for, from a comparison's summary."""
    ways = methods_of(question, criterion)
    budgets = dict.fromkeys(
        (row["asked"], row["asked_ms"]) for row in summary if row["method"] in ways
    )
    found = []
    for asked, asked_ms in budgets:
        rows = [
            (ways[row["method"]], row)
            for row in summary
            if row["method"] in ways and (row["asked"], row["asked_ms"]) == (asked, asked_ms)
        ]
        rows.sort(key=lambda entry: -entry[1]["accuracy"])
        found.append(Answer(asked, asked_ms, criterion, tuple(rows), _told(dict(rows))))
    return found


def _told(rows: dict[str, dict]) -> str:
    """Which of layers and filters keeps more, and whether that is beyond the seeds' spread."""
    missing = [way for way in (LAYERS, FILTERS) if way not in rows]
    if missing:
        return f"no network with {missing[0]} meets this budget"
    layers, filters = rows[LAYERS], rows[FILTERS]
    points = 100 * (layers["accuracy"] - filters["accuracy"])
    better = "dropping layers" if points > 0 else "thinning layers"
    seeds = min(layers["seeds"], filters["seeds"])
    apart = (
        layers["accuracy_low"] > filters["accuracy_high"]
        or filters["accuracy_low"] > layers["accuracy_high"]
    )
    said = f"{better} keeps {abs(points):.2f} points more"
    if seeds == 1:
        said += " (one seed each: repeat with more to be sure)"
    elif apart:
        said += f", in all of {seeds} seeds"
    else:
        said = f"no difference beyond the spread of {seeds} seeds: {said}"
    if BOTH in rows:
        gained = 100 * (rows[BOTH]["accuracy"] - max(layers["accuracy"], filters["accuracy"]))
        said += f"; both together: {gained:+.2f}"
    return said
