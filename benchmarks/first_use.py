"""How long until a first table and a first pruned network, from a fresh clone by the README alone?

    python -m benchmarks.first_use

Clones the repository into a new folder and runs the README's commands there, the installation timed
apart. Only on an idle machine.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from pathlib import Path

import typer

from benchmarks.results import save

REPOSITORY = Path(__file__).parents[1]
COMMANDS = {
    "installation": "make setup",
    "first_table": "make profile NETWORK=resnet56 OUT=runs/resnet56",
    "first_pruned_network": "make demo",
}


def main() -> None:
    seconds = {}
    with tempfile.TemporaryDirectory() as place:
        clone = Path(place) / "clone"
        subprocess.run(["git", "clone", "--quiet", REPOSITORY, clone], check=True)
        for what, command in COMMANDS.items():
            start_s = time.perf_counter()
            subprocess.run(command.split(), cwd=clone, check=True)
            seconds[what] = time.perf_counter() - start_s
            print(f"{what}: {seconds[what]:.0f} s", flush=True)
        result = json.loads((clone / "runs/demo/run/result.json").read_text())
    kept = {name: result[name] for name in ("asked", "predicted", "measured", "accuracy")}
    print(save("first_use", {"commands": COMMANDS, "seconds": seconds, "demo": kept}))


if __name__ == "__main__":
    typer.run(main)
