"""The published ResNets on the CIFAR-10 test set, in PyTorch and after export to ONNX."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from benchmarks.results import save

FILES = {"resnet20": "resnet20-12fca82f.th", "resnet56": "resnet56-4bfd9763.th"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", required=True, help="the folder that holds CIFAR-10")
    parser.add_argument("--weights-dir", type=Path, required=True, help="the published files")
    options = parser.parse_args()
    results = {model: evaluate(model, options) for model in FILES}
    print(save("published_accuracy", {"models": results}))


def evaluate(model: str, options: argparse.Namespace) -> dict:
    command = [sys.executable, "-m", "pruner", "evaluate", "--model", model, "--data", "cifar10"]
    command += ["--weights", str(options.weights_dir / FILES[model])]
    command += ["--data-dir", options.data_dir, "--json"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    main()
