"""How a table's prediction holds for networks that a search chose by it.

Whoever searches a table finds what it prices too low, so random unseen networks say too little of
the networks that a user gets. Here every decision's options get a random worth, and of all networks
within a budget that of the greatest worth is taken (the knapsack that `thompson` steps by, so
from the same widths and blocks); beside it one within the same budget whose widths were drawn one
by one, which prices had no part in. Both are measured beside the dense network, in fresh sessions.

Networks that take longer than 100 ms are left out.

    python -m benchmarks.found [--threads 1] [NETWORK …]
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.here import table_here
from benchmarks.results import RESULTS, save
from latprof.profile.judge import measured_beside_dense
from lookup_tables.model.latency_model import LatencyModel
from lookup_tables.model.staircase import Staircase
from lookup_tables.network import Network
from lookup_tables.table.home import DATA
from lookup_tables.table.settled import undisturbed
from lookup_tables.table.store import LatencyTable
from pruner.search.completion import Completion
from pruner.search.knapsack import solve_nearly
from pruner.search.space import KEPT, Kind, SearchSpace

SPEEDUPS = (1.5, 2.0, 3.0)
KINDS = ("found", "random")
SLOWEST_S = 0.1
MET = 0.97  # of the speedup that was asked for


def main(
    networks: Annotated[list[str] | None, typer.Argument()] = None,
    threads: int = 1,
    samples: int = 6,  # of each kind at each speedup
    tables: Path = DATA,
) -> None:
    device, table = table_here(threads, tables)
    result = f"found_{device.name}"
    path = RESULTS / f"{result}.json"
    known = json.loads(path.read_text())["networks"] if networks and path.exists() else {}
    for name in networks or table.networks():
        network = table.load_network(name)
        if LatencyModel(network, table).dense_s > SLOWEST_S:
            print(f"{name}: takes longer than {SLOWEST_S * 1e3:.0f} ms, left out")
            continue
        known[name] = judge(network, table, samples)
        for kind in {*KINDS} & {*known[name]}:
            facts = known[name][kind]
            print(f"{name}, {kind}: {facts['rmspe']:.1%}, bias {facts['bias']:+.1%}", flush=True)
        save(result, {"device": device.model_dump(exclude_none=True), "networks": known})
    print(path)


def judge(network: Network, table: LatencyTable, samples: int) -> dict:
    """Predicted against measured, of networks found and of random ones."""
    measured = LatencyModel(network, table)
    offered = measured.with_menu(Staircase(measured).menu())
    kinds = (Kind.WIDTH, Kind.BLOCK) if network.blocks else (Kind.WIDTH,)
    completion = Completion(offered, SearchSpace.of(offered.network, kinds))
    chosen = candidates(completion, samples)
    runs = measured_beside_dense(network, table, [each["architecture"] for each in chosen])
    rows: dict[str, list[dict]] = {kind: [] for kind in KINDS}
    quiet = {run.run for run in undisturbed(runs)}
    for each, run in zip(chosen, runs, strict=True):
        if run.run not in quiet:
            continue
        rows[each["kind"]].append(
            {
                "asked": each["asked"],
                "predicted": measured.dense_s / measured.latency_s(run.architecture),
                "measured": 1 / run.ratio,
                **run.architecture.model_dump(exclude_defaults=True),
            }
        )
    return {
        "table_measured_at": table.validation(network.name).measured_at,
        **{kind: _summary(rows[kind]) for kind in KINDS if rows[kind]},
        "rows": rows,
    }


def candidates(completion: Completion, samples: int) -> list[dict]:
    """Networks of both kinds within each speedup that the table thinks possible."""
    rng = np.random.default_rng(2026)
    dense_s = completion.model.dense_s
    fastest_s = completion.model.latency_s(completion.fastest())
    chosen = []
    for asked in SPEEDUPS:
        if dense_s / asked < fastest_s:
            continue
        for _ in range(samples):
            found = solve_nearly(completion, random_worth(completion, rng), dense_s / asked)
            walked = walk(completion, dense_s / asked, rng)
            for kind, positions in zip(KINDS, (found, walked), strict=True):
                architecture = completion.architecture(positions)
                chosen.append({"kind": kind, "asked": asked, "architecture": architecture})
    return chosen


def walk(completion: Completion, budget_s: float, rng: np.random.Generator) -> list[int]:
    """Each decision in turn at random among those the budget still allows; nothing is spent after.

    Blocks stay, as they mostly do in what is found.
    """
    positions: list[int] = []
    for decision in completion.decisions:
        allowed = np.flatnonzero(completion.allowed(positions, budget_s))
        if decision.is_block and KEPT in allowed:
            allowed = [KEPT]
        positions.append(int(rng.choice(allowed)))
    return positions


def random_worth(completion: Completion, rng: np.random.Generator) -> list[np.ndarray]:
    """What each option of each decision is worth: more for wider ones, by ever less."""
    values = []
    for decision in completion.decisions:
        scale, exponent = rng.lognormal(), rng.uniform(0.2, 0.8)
        share = np.array(decision.options) / decision.full
        values.append(scale * share**exponent)
    total = sum(value[-1] for value in values)
    return [value / total for value in values]


def _summary(rows: list[dict]) -> dict:
    errors = np.array([row["measured"] / row["predicted"] - 1 for row in rows])
    return {
        "networks": len(rows),
        "rmspe": float(np.sqrt(np.mean(errors**2))),
        "bias": float(np.mean(errors)),
        "worst": float(errors[np.abs(errors).argmax()]),
        "kept_what_was_asked": float(
            np.mean([row["measured"] >= MET * row["asked"] for row in rows])
        ),
    }


if __name__ == "__main__":
    typer.run(main)
