"""Fronts by one search for all budgets, and by one for each, on recorded accuracies.

The accuracies are those of `benchmarks/surrogate.py` (ResNet-56, widths and blocks): any
architecture's is known at once, and so is, by an integer programme, the best one within each
budget. A search for all budgets scores so many candidates in one run; one for a single budget is
run once for each, with an equal part of them. What everything scored is one front, and by how much
it falls short of the best network within each budget is told beside its hypervolume.

    python -m benchmarks.fronts --table FOLDER [--method jcw:generations=128 …]
"""

from __future__ import annotations

import json
import time
from typing import Annotated

import typer

from benchmarks.pruning import Table, problem
from benchmarks.results import RESULTS, save
from benchmarks.surrogate import Surrogate, known, opened, scored_by
from lookup_tables.model.latency_model import PREDICTOR
from pruner.run.compare import variant
from pruner.run.front import front, hypervolume
from pruner.run.settings import Settings
from pruner.search.knapsack import solve
from pruner.search.searcher import Scored

SPEEDUPS = (1.2, 1.5, 2.0, 2.5, 3.0, 4.0)
WIDE = "least_width=0,least_width_first=0,least_width_strided=0,least_width_shortcut=0"
DEFAULT = (
    "thompson_front", "thompson", "random", "greedy", "knapsack", "uniform",
    f"jcw:generations=9,{WIDE}", f"jcw:{WIDE}",
)  # fmt: skip


def main(
    table: Table,
    method: Annotated[list[str] | None, typer.Option()] = None,
    scores: int = 600,  # of one front
    seeds: int = 3,
    depth: bool = True,
) -> None:
    """Methods and their variants are named as `pruner compare` names them."""
    recorded, surrogate = opened(table, depth)
    network = surrogate.completion.model.network
    best = optima(surrogate)
    base = Settings(
        model=network.name, weights="", data="", table=str(table), speedup=SPEEDUPS[-1],
        depth=depth, episodes=scores,
    )  # fmt: skip
    asked = {
        "of": problem(base) | {"predictor": PREDICTOR}, "speedups": [*SPEEDUPS], "scores": scores,
        "dense": surrogate.dense, "optimum": best,
    }  # fmt: skip
    label = f"fronts_{network.name}_{'depth' if depth else 'widths'}"
    rows = known(label, asked)
    for name in method or DEFAULT:
        found = [
            searched(name, base.varied(seed=seed), surrogate, recorded) for seed in range(seeds)
        ]
        rows[name] = {
            "scored": [each["scored"] for each in found],
            "networks": [each["networks"] for each in found],
            "seconds": [each["seconds"] for each in found],
            "hypervolume": [each["hypervolume"] for each in found],
            "missed": [
                [None if a is None else 1 - a / b for a, b in zip(e["accuracy"], best, strict=True)]
                for e in found
            ],
        }
        print(name, json.dumps(rows[name]), flush=True)
        save(label, asked | {"methods": rows})
    print(RESULTS / f"{label}.json")


def optima(surrogate: Surrogate) -> list[float]:
    """The accuracy of the best network within each budget."""
    completion = surrogate.completion
    within_s = [completion.model.dense_s / speedup for speedup in SPEEDUPS]
    rows = [solve(completion, surrogate.values(), each) for each in within_s]
    return [surrogate(completion.architecture(row)) for row in rows]


def searched(name: str, base: Settings, surrogate: Surrogate, recorded: dict) -> dict:
    """What one way to a front scored, and how good its best networks are."""
    latency, start_s = surrogate.completion.model, time.perf_counter()
    whole = variant(base, name)
    speedups = SPEEDUPS[-1:] if whole.searched_by.gives_front else SPEEDUPS
    found: list[Scored] = []
    for speedup in speedups:
        own = whole.varied(speedup=speedup, episodes=base.episodes // len(speedups))
        found += scored_by(own, surrogate, recorded["importance"])
    dense_s = latency.dense_s
    within = [
        [s.accuracy for s in found if s.latency_s <= dense_s / x * (1 + 1e-9)] for x in SPEEDUPS
    ]
    of_it = front(found, latency, latency.network.name, name)
    return {
        "scored": len({each.architecture for each in found}),
        "networks": len(of_it["points"]),
        "seconds": round(time.perf_counter() - start_s, 1),
        "hypervolume": hypervolume(of_it, fastest_ms=dense_s / SPEEDUPS[-1] * 1e3),
        "accuracy": [max(each, default=None) for each in within],
    }


if __name__ == "__main__":
    typer.run(main)
