"""Models of others, profiled and pruned by the commands, and timed: what was asked is what comes.

    python -m benchmarks.others_pruned [--budget 120s] [--speedup 1.5] [--again] [NAME …]

Each model of `benchmarks/others.py`, at a small input, as a user would: traced, profiled into a
table of its own, pruned by one factor for all widths and confirmed by timing it (`--confirm`), cut,
exported, checked, and timed in pairs. Weights are random, so accuracy says nothing here. It can be
interrupted: what the result file holds is not tried again, unless by `--again`, and a table that
was begun goes on.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from safetensors.torch import save_file

from benchmarks.others import MODELS, SIZE
from benchmarks.results import RESULTS, save

NAME = "others_pruned"
ROOT = Path(__file__).parents[1]


def main(
    names: Annotated[list[str] | None, typer.Argument()] = None,
    budget: str = "120s",
    speedup: float = 1.5,
    again: bool = False,
    out: Path = Path("runs/others"),
) -> None:
    path = RESULTS / f"{NAME}.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    before = {row["model"]: row for row in rows}
    for name in names or MODELS:
        if name in before and not again:
            continue
        # A table that was begun goes on: it has had both.
        goes_on = name in before and (out / name / "table").exists()
        spent = f"{before[name]['budget']} + {budget}" if goes_on else budget
        row = {"model": name, "input": SIZE, "budget": spent}
        row |= _pruned(name, budget, speedup, out.resolve() / name)
        rows = [r for r in rows if r["model"] != name] + [row]
        print(json.dumps(row), flush=True)
        save(NAME, {"rows": rows})
    print(path)


def _pruned(name: str, budget: str, speedup: float, folder: Path) -> dict:
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / "dense.safetensors"
    state = MODELS[name]().state_dict()
    save_file({k: v.clone() for k, v in state.items() if isinstance(v, torch.Tensor)}, weights)
    model = ["--model", f"{ROOT / 'benchmarks/others.py'}:{name}"]
    network, table, start_s = folder / f"{name}.json", folder / "table", time.perf_counter()
    traced = ["trace", *model, "--input", f"3x{SIZE}x{SIZE}", "--out", str(network)]
    profile = ["profile", "--network", str(network), "--budget", budget, "--out", str(table)]
    prune = [
        "prune", *model, "--weights", str(weights), "--table", str(table),
        "--data", f"{ROOT / 'benchmarks/others.py'}:images", "--method", "uniform",
        "--speedup", str(speedup), "--confirm", "--epochs", "0", "--out", str(folder / "run"),
    ]  # fmt: skip
    row: dict = {}
    shutil.rmtree(folder / "run", ignore_errors=True)
    for program, command in (("pruner", traced), ("latprof", profile), ("pruner", prune)):
        answer = subprocess.run(
            [sys.executable, "-m", program, *command], cwd=ROOT, capture_output=True, text=True
        )
        if answer.returncode:
            said = answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"]
            return row | {"refused": said[-1].replace(str(folder), name)}
        if program == "latprof":
            validations = [
                json.loads(line)
                for line in (table / f"{name}.jsonl").read_text().splitlines()
                if '"rmspe"' in line
            ]
            row |= {f"rmspe_{v['widths']}": round(v["rmspe"], 4) for v in validations}
    result = json.loads((folder / "run" / "result.json").read_text())
    measured = result["measured"]
    if measured is None:  # a neighbour on the core: tried again by another call
        return row | {"refused": result["not_measured_because"].replace(str(folder), name)}
    return row | {
        "dense_ms": round(measured["dense_ms"], 3),
        "asked": speedup,
        "predicted": round(result["predicted"]["speedup"], 3),
        "measured": round(measured["speedup"], 3),
        "measured_low": round(measured["speedup_low"], 3),
        "measured_high": round(measured["speedup_high"], 3),
        "of_asked": round(measured["speedup"] / speedup, 3),
        "seconds": round(time.perf_counter() - start_s),
    }


if __name__ == "__main__":
    typer.run(main)
