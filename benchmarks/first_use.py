"""How long until a first table and a first pruned network, from a fresh clone by the README alone?

    python -m benchmarks.first_use

Clones the repository into a new folder and runs the README's commands there, the installation timed
apart. `disk_gb` (10⁹ bytes) is what the installation took of the disk that holds both the clone and
the system's temporary files: at most while it ran, and afterwards. Only on an idle machine.
"""

from __future__ import annotations

import json
import shutil
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
    seconds, disk_gb = {}, {}
    with tempfile.TemporaryDirectory() as place:
        clone = Path(place) / "clone"
        subprocess.run(["git", "clone", "--quiet", REPOSITORY, clone], check=True)
        for what, command in COMMANDS.items():
            start_s = time.perf_counter()
            taken = run(command, clone)
            seconds[what] = time.perf_counter() - start_s
            disk_gb = disk_gb or taken  # of the installation, which comes first
            print(f"{what}: {seconds[what]:.0f} s", flush=True)
        result = json.loads((clone / "runs/demo/run/result.json").read_text())
    kept = {name: result[name] for name in ("asked", "predicted", "measured", "accuracy")}
    found = {"commands": COMMANDS, "seconds": seconds, "disk_gb": disk_gb, "demo": kept}
    print(save("first_use", found))


def run(command: str, clone: Path) -> dict[str, float]:
    """Run it; what it took of the disk, in GB. Raises CalledProcessError if it fails."""
    before_gb = least_gb = free_gb(clone)
    with subprocess.Popen(command.split(), cwd=clone) as process:
        while process.poll() is None:
            least_gb = min(least_gb, free_gb(clone))
            time.sleep(1)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return {"at_most": before_gb - least_gb, "afterwards": before_gb - free_gb(clone)}


def free_gb(folder: Path) -> float:
    return shutil.disk_usage(folder).free / 1e9


if __name__ == "__main__":
    typer.run(main)
