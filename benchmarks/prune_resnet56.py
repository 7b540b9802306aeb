"""ResNet-56 on CIFAR-10 pruned to a measured speedup by every method, the same way.

Runs `pruner prune` once per method from the published weights; each run continues where it was
interrupted. Nothing else may run meanwhile: the last step of each run times it in pairs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from benchmarks.results import save

METHODS = ("lap", "random", "uniform")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", required=True, help="the folder that holds CIFAR-10")
    parser.add_argument("--weights", required=True, help="the published ResNet-56")
    parser.add_argument("--table", required=True, help="this machine's table")
    parser.add_argument("--speedup", type=float, default=1.6)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--runs", type=Path, default=Path("runs/prune_resnet56"))
    options = parser.parse_args()
    results = {method: prune(method, options) for method in METHODS}
    print(save("prune_resnet56", {"methods": results}))


def prune(method: str, options: argparse.Namespace) -> dict:
    """One method's result.json, without what is the same for all or true of this machine only."""
    out = options.runs / f"{method}_{options.speedup}"
    command = [sys.executable, "-m", "pruner", "prune", "--model", "resnet56"]
    command += ["--weights", options.weights, "--data", "cifar10", "--data-dir", options.data_dir]
    command += ["--table", options.table, "--speedup", str(options.speedup), "--method", method]
    command += ["--epochs", str(options.epochs), "--out", str(out)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    result = json.loads((out / "result.json").read_text())
    for local in ("weights", "data_dir", "table"):
        result["settings"].pop(local)
    result["architecture"] = json.loads((out / "architecture.json").read_text())
    return result


if __name__ == "__main__":
    main()
