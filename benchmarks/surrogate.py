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
from dataclasses import dataclass, fields
from typing import Annotated

import numpy as np
import typer

from benchmarks.pruning import DataDir, Table, Weights, journey, problem
from benchmarks.results import COMMIT, RESULTS, save
from lookup_tables.estimate import PREDICTOR, LatencyModel
from lookup_tables.network import Architecture, Network
from lookup_tables.staircase import Staircase
from pruner.choices import REMOVED, choices
from pruner.compare import variant
from pruner.completion import Completion
from pruner.criteria.taylor import importance
from pruner.former import NAMES
from pruner.knapsack import solve
from pruner.methods import METHODS, SearchSettings
from pruner.problem import SearchProblem
from pruner.prune import for_search
from pruner.run_folder import Settings

app = typer.Typer()
RECORDED = "surrogate_resnet56"
LEAST = 1e-3  # share of the accuracy that is left at worst
IMAGES = 3000
DEFAULT = (
    "thompson", "greedy", "knapsack", "random", "lap", "amc",
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
    for choice in choices(network, depth=True):
        single = [_single(choice, option) for option in choice.options[:-1]]
        left = [run.score(architecture, IMAGES) / dense for architecture in single]
        shares[choice.name] = [*left, 1.0]
        print(choice.name, [round(share, 3) for share in shares[choice.name]], flush=True)
    options = {c.name: list(c.options) for c in choices(network, depth=True)}
    taylor = importance(run.trace, run.data.train)
    content = {
        "network": network.name, "images": IMAGES, "dense": dense, "options": options,
        "shares": shares,
        "importance": {name: [float(f"{v:.4g}") for v in found] for name, found in taylor.items()},
    }  # fmt: skip
    print(save(RECORDED, content))


def _single(choice, option: int) -> Architecture:
    if choice.is_block:
        return Architecture(removed=(choice.name,) if option == REMOVED else ())
    return Architecture(widths={choice.name: option})


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
        for choice in completion.choices:
            known, left = recorded["options"][choice.name], recorded["shares"][choice.name]
            values = np.interp(choice.options, known, np.clip(left, LEAST, 1.0))
            shares[choice.name] = dict(zip(choice.options, values, strict=True))
        return cls(recorded["dense"], shares, completion)

    def __call__(self, architecture: Architecture) -> float:
        logs = 0.0
        for choice in self.completion.choices:
            if choice.is_block:
                kept = choice.name not in architecture.removed
                logs += np.log(self.shares[choice.name][int(kept)])
            elif not self._gone(choice, architecture):
                logs += np.log(self._of_width(choice, architecture))
        return self.dense * float(np.exp(logs))

    def _of_width(self, choice, architecture: Architecture) -> float:
        width = architecture.widths.get(choice.name, choice.full)
        known = self.shares[choice.name]
        return (
            known[width] if width in known else np.interp(width, *zip(*known.items(), strict=True))
        )

    def _gone(self, choice, architecture: Architecture) -> bool:
        if choice.inside is None:
            return False
        return self.completion.choices[choice.inside].name in architecture.removed

    def values(self) -> list[np.ndarray]:
        """What the integer programme adds up: logarithms."""
        return [np.log(list(self.shares[c.name].values())) for c in self.completion.choices]


@app.command()
def regret(
    table: Table,
    speedup: float = 2.0,
    method: Annotated[list[str] | None, typer.Option()] = None,
    seeds: int = 5,
    episodes: int = 300,
    depth: bool = True,
) -> None:
    """Methods and their variants are named as `pruner compare` names them."""
    recorded = json.loads((RESULTS / f"{RECORDED}.json").read_text())
    network = Network.load(recorded["network"])
    measured = LatencyModel.load(network, table)
    latency = measured.with_menu(Staircase(measured).menu())
    completion = Completion(latency, depth)
    surrogate = Surrogate.load(recorded, completion)
    budget_s = latency.dense_s / speedup
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
    label = f"regret_{network.name}_{'depth' if depth else 'widths'}_{speedup:g}x"
    results = _known(label, asked)
    for name in method or DEFAULT:
        chosen, found = variant(base, name), []
        _require_simulated(base, chosen, name)
        for seed in range(seeds):
            search = for_search(chosen.varied(seed=seed))
            best = best_found(chosen.method, search, surrogate, recorded["importance"], budget_s)
            found.append(1 - best / asked["optimum"])
            print(f"{name} seed {seed}: regret {found[-1]:.2%}", flush=True)
        results[name] = {
            "commit": COMMIT, "regret": found, "mean": float(np.mean(found)), "worst": max(found),
        }  # fmt: skip
        save(label, asked | {"names": NAMES, "methods": results})
    print(RESULTS / f"{label}.json")


def _require_simulated(base: Settings, chosen: Settings, name: str) -> None:
    """Refuse what recorded accuracies know nothing of: weights' norms, and other settings."""
    if chosen.method == "magnitude":
        raise typer.BadParameter("--method magnitude: of weights, accuracies alone are recorded")
    own = {field.name for field in fields(SearchSettings)} - {"episodes", "seed"}
    ignored = [
        setting
        for setting, value in chosen.model_dump().items()
        if setting not in own | {"method"} and value != getattr(base, setting)
    ]
    if ignored:
        raise typer.BadParameter(f"--method {name!r}: {ignored[0]} changes nothing here")


def best_found(
    method: str, settings: SearchSettings, surrogate: Surrogate, importance: dict, budget_s: float
) -> float:
    """The highest accuracy of what a search scored within the budget."""
    latency = surrogate.completion.model
    within: list[float] = []

    def score(architecture: Architecture) -> float:
        accuracy = surrogate(architecture)
        if latency.latency_s(architecture) <= budget_s * (1 + 1e-9):
            within.append(accuracy)
        return accuracy

    METHODS[method](
        SearchProblem(latency.network, latency, budget_s, score, lambda: importance), settings
    )
    return max(within)


def _known(label: str, asked: dict) -> dict:
    """Methods that were asked the same before, of the same table read alike: a file may grow."""
    path = RESULTS / f"{label}.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    same = all(before.get(key) == value for key, value in asked.items())
    return before["methods"] if same else {}


if __name__ == "__main__":
    app()
