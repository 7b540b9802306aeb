"""How close each search comes to an optimum that is known, on recorded accuracies.

`record` prunes every group to every width of its menu, and removes every block, one at a time, and
keeps what share of the held-out accuracy is left. A surrogate network's accuracy is the dense one's
times all those shares: its best architecture within a budget follows, to within a thousandth, from
an integer programme, and a search needs no images. `regret` is by how much of the optimum's
accuracy a search falls short. (Here decisions do not depend on one another, as Thompson sampling
assumes; in a real network some do.)

    python -m benchmarks.surrogate record --weights FILE --data-dir FOLDER --table FOLDER
    python -m benchmarks.surrogate regret --table FOLDER [--method rl:agent=td3,reward=error …]
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.pruning import DataDir, Table, Weights, journey, problem
from benchmarks.results import COMMIT, RESULTS, save
from lookup_tables.architecture import Architecture
from lookup_tables.model.latency_model import PREDICTOR, LatencyModel
from lookup_tables.model.staircase import Staircase
from lookup_tables.network import Network
from pruner.criteria.taylor import importance
from pruner.run.compare import variant
from pruner.run.former import NAMES
from pruner.run.settings import Settings
from pruner.search.completion import Completion
from pruner.search.knapsack import solve
from pruner.search.problem import SearchProblem
from pruner.search.searcher import Scored, Searcher
from pruner.search.space import REMOVED, Decision, Kind, SearchSpace

app = typer.Typer()
RECORDED = "surrogate_resnet56"
LEAST = 1e-3  # share of the accuracy that is left at worst
IMAGES = 3000
NEAR = 0.01  # of the optimum
DEFAULT = (
    "thompson", "greedy", "knapsack", "random", "lap", "rl", "amc",
    "rl:agent=cma,actions=values", "rl:agent=td3", "rl:agent=sac", "rl:actions=values",
    "rl:sensitivity=false", "rl:reward=error", "rl:reward=error_log_latency",
    "rl:reward=error_log_macs", "rl:reward=accuracy_latency",
)  # fmt: skip


@app.command()
def record(weights: Weights, data_dir: DataDir, table: Table, model: str = "resnet56") -> None:
    run = journey(model, weights, data_dir, table, speedup=2.0, depth=True)
    network = run.latency.network
    dense = run.score(network.dense, IMAGES)
    shares = {}
    for decision in run.space.decisions:
        single = [_single(decision, option) for option in decision.options[:-1]]
        left = [run.score(architecture, IMAGES) / dense for architecture in single]
        shares[decision.name] = [*left, 1.0]
        print(decision.name, [round(share, 3) for share in shares[decision.name]], flush=True)
    options = {d.name: list(d.options) for d in run.space.decisions}
    taylor = importance(run.trace, run.data.train)
    content = {
        "network": network.name, "images": IMAGES, "dense": dense, "options": options,
        "shares": shares,
        "importance": {name: [float(f"{v:.4g}") for v in found] for name, found in taylor.items()},
    }  # fmt: skip
    print(save(RECORDED, content))


def _single(decision: Decision, option: float) -> Architecture:
    if decision.is_block:
        return Architecture(removed=(decision.name,) if option == REMOVED else ())
    return Architecture(widths={decision.name: int(option)})


@dataclass
class Surrogate:
    """Accuracy of any architecture, from the recorded shares."""

    dense: float
    shares: dict[str, dict[int, float]]
    completion: Completion

    @classmethod
    def load(cls, recorded: dict, completion: Completion) -> Surrogate:
        """Widths between recorded ones are interpolated: the menu follows the table."""
        shares = {}
        for decision in completion.decisions:
            known, left = recorded["options"][decision.name], recorded["shares"][decision.name]
            values = np.interp(decision.options, known, np.clip(left, LEAST, 1.0))
            shares[decision.name] = dict(zip(decision.options, values, strict=True))
        return cls(recorded["dense"], shares, completion)

    def __call__(self, architecture: Architecture) -> float:
        logs = 0.0
        for decision in self.completion.decisions:
            if decision.is_block:
                kept = decision.name not in architecture.removed
                logs += np.log(self.shares[decision.name][int(kept)])
            elif decision.inside not in architecture.removed:
                logs += np.log(self._of_width(decision, architecture))
        return self.dense * float(np.exp(logs))

    def _of_width(self, decision: Decision, architecture: Architecture) -> float:
        width = architecture.widths.get(decision.name, decision.full)
        known = self.shares[decision.name]
        return (
            known[width] if width in known else np.interp(width, *zip(*known.items(), strict=True))
        )

    def values(self) -> list[np.ndarray]:
        """What the integer programme adds up: logarithms."""
        return [np.log(list(self.shares[d.name].values())) for d in self.completion.decisions]


def opened(table: Path, depth: bool) -> tuple[dict, Surrogate]:
    """What was recorded, and the accuracy of all that a table offers."""
    recorded = json.loads((RESULTS / f"{RECORDED}.json").read_text())
    measured = LatencyModel.load(Network.load(recorded["network"]), table)
    latency = measured.with_menu(Staircase(measured).menu())
    kinds = [Kind.WIDTH, Kind.BLOCK] if depth else [Kind.WIDTH]
    completion = Completion(latency, SearchSpace.of(latency.network, kinds))
    return recorded, Surrogate.load(recorded, completion)


@app.command()
def regret(
    table: Table,
    speedup: float = 2.0,
    method: Annotated[list[str] | None, typer.Option()] = None,
    seeds: int = 5,
    episodes: int = 300,
    depth: bool = True,
    label: Annotated[str, typer.Option(help="of a result file of its own")] = "",
) -> None:
    """Methods and their variants are named as `pruner compare` names them."""
    recorded, surrogate = opened(table, depth)
    completion = surrogate.completion
    network, budget_s = completion.model.network, completion.model.dense_s / speedup
    values = surrogate.values()
    best = completion.architecture(solve(completion, values, budget_s))
    base = Settings(
        model=network.name, weights="", data="", table=str(table), speedup=speedup, depth=depth,
        episodes=episodes,
    )  # fmt: skip
    asked = {
        "of": problem(base) | {"predictor": PREDICTOR}, "episodes": episodes,
        "dense": surrogate.dense, "optimum": surrogate(best),
    }  # fmt: skip
    label = f"regret{label}_{network.name}_{'depth' if depth else 'widths'}_{speedup:g}x"
    results = known(label, asked)
    for name in method or DEFAULT:
        chosen, found, needed = variant(base, name), [], []
        _require_simulated(base, chosen, name)
        for seed in range(seeds):
            seeded = chosen.varied(seed=seed)
            scored = scored_by(seeded, surrogate, recorded["importance"])
            found.append(1 - best_of(scored, budget_s) / asked["optimum"])
            needed.append(scores_until(scored, budget_s, (1 - NEAR) * asked["optimum"]))
            print(
                f"{name} seed {seed}: regret {found[-1]:.2%}, near after {needed[-1]}", flush=True
            )
        results[name] = {
            "commit": COMMIT, "regret": found, "mean": float(np.mean(found)), "worst": max(found),
            "scores_until_near": needed,
        }  # fmt: skip
        save(label, asked | {"names": NAMES, "methods": results})
    print(RESULTS / f"{label}.json")


def _require_simulated(base: Settings, chosen: Settings, name: str) -> None:
    """Refuse what recorded accuracies know nothing of: weights' norms, and other settings."""
    if chosen.method == "magnitude":
        raise typer.BadParameter("--method magnitude: of weights, accuracies alone are recorded")
    heard = {"method", "method_settings", "depth"}
    ignored = [
        setting
        for setting, value in chosen.model_dump().items()
        if setting not in heard and value != getattr(base, setting)
    ]
    if ignored:
        raise typer.BadParameter(f"--method {name!r}: {ignored[0]} changes nothing here")


def best_of(scored: Sequence[Scored], budget_s: float) -> float:
    """The highest accuracy within the budget."""
    return max((s.accuracy for s in scored if is_within(s, budget_s)), default=0.0)


def scores_until(scored: Sequence[Scored], budget_s: float, accuracy: float) -> int | None:
    """How many scores it took to reach an accuracy within the budget; None where it did not."""
    reached = (s.accuracy >= accuracy and is_within(s, budget_s) for s in scored)
    return next((count for count, found in enumerate(reached, 1) if found), None)


def is_within(scored: Scored, budget_s: float) -> bool:
    return scored.latency_s <= budget_s * (1 + 1e-9)


def scored_by(settings: Settings, surrogate: Surrogate, importance: dict) -> list[Scored]:
    """Everything that one search scores within the settings' speedup."""
    latency, method = surrogate.completion.model, settings.searched_by
    problem = SearchProblem(
        SearchSpace.of(latency.network, method.kinds(settings.depth)), latency,
        latency.dense_s / settings.speedup, episodes=settings.scored, seed=settings.seed,
        importance=lambda: importance,
    )  # fmt: skip
    searcher = Searcher(method.make(problem, settings.own("method")))
    found: list[Scored] = []
    while batch := searcher.ask():
        scored = [Scored(each, surrogate(each), latency.latency_s(each)) for each in batch]
        found += scored
        searcher.tell(scored)
    return found


def known(label: str, asked: dict) -> dict:
    """Methods that were asked the same before, of the same table read alike: a file may grow."""
    path = RESULTS / f"{label}.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    same = all(before.get(key) == value for key, value in asked.items())
    return before["methods"] if same else {}


if __name__ == "__main__":
    app()
