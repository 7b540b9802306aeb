"""The null test: networks against themselves, whatever else the machine does; the ratio must be 1.

    python -m benchmarks.null_test [--tree CHECKOUT] [--name after]

Networks of six sizes, each compared with itself by `latprof compare`, idle and beside every
disturbance, with one and two threads. An answer is wrong if it is off by more than 1 % idle or 3 %
beside a disturbance; a refusal (exit code 6) is no wrong answer, nor is none within `--limit-s`.
`--tree`: the checkout whose `latprof` is asked, for figures of an older one. It can be interrupted:
what the result file holds is not measured again.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import typer
from onnx import helper, numpy_helper

from benchmarks.disturbances import Disturbance, all_disturbances, quota_possible
from benchmarks.results import RESULTS, save
from latprof.runtimes.here import this_device
from latprof.runtimes.ort_cpu import Running

SIZES_MS = (0.05, 0.5, 2, 5, 10, 100)
IDLE, LOADED = 0.01, 0.03  # how far from 1 an answer may be
REFUSED = 6  # latprof's exit code
HERE = Path(__file__).parents[1]


def main(
    tree: Path = HERE,
    name: str = "after",
    work: Path = Path("runs/null_test"),
    largest_ms: float = max(SIZES_MS),
    limit_s: float = 90.0,
) -> None:
    work.mkdir(parents=True, exist_ok=True)
    result = f"null_test_{name}"
    path = RESULTS / f"{result}.json"
    cells = json.loads(path.read_text())["cells"] if path.exists() else []
    for known in cells:
        known |= {"said": without_folders(known["said"])} if "said" in known else {}
    have = {(c["disturbance"], c["size_ms"], c["threads"]) for c in cells}
    files = networks(work)
    for threads, disturbance in itertools.product((1, 2), all_disturbances()):
        if disturbance.quota and not quota_possible():
            print(f"{disturbance.name}: left out, it needs root and control groups")
            continue
        for size_ms, file in files.items():
            if (disturbance.name, size_ms, threads) in have or size_ms > largest_ms:
                continue
            cells.append(cell(disturbance, size_ms, file, threads, tree.resolve(), limit_s))
            print(json.dumps(cells[-1]), flush=True)
            save(result, {"sizes_ms": SIZES_MS, **summary(cells), "cells": cells})
    print(save(result, {"sizes_ms": SIZES_MS, **summary(cells), "cells": cells}))


def cell(
    d: Disturbance, size_ms: float, file: Path, threads: int, tree: Path, limit_s: float
) -> dict:
    """One network against itself beside one disturbance."""
    file = file.resolve()
    command = [sys.executable, "-m", "latprof", "compare", str(file), str(file)]
    start_s = time.perf_counter()
    found = {"disturbance": d.name, "size_ms": size_ms, "threads": threads}
    try:
        answer = d.run([*command, "--threads", str(threads), "--json"], tree, threads, limit_s)
    except subprocess.TimeoutExpired:
        return found | {"exit_code": None, "seconds": limit_s, "wrong": False}
    found |= {"exit_code": answer.returncode, "seconds": time.perf_counter() - start_s}
    if answer.returncode == 0:
        told = json.loads(answer.stdout)
        off = abs(math.log(told["speedup"]))
        wrong = off > math.log1p(IDLE if d.name == "idle" else LOADED)
        return found | {k: told[k] for k in ("speedup", "dense_ms")} | {"wrong": wrong}
    lines = answer.stderr.strip().splitlines() or [""]
    return found | {"said": without_folders(lines[-1]), "wrong": answer.returncode != REFUSED}


def without_folders(said: str) -> str:
    """A message in which files go by their names: a result holds no place of this machine."""
    return re.sub(r"/\S+/(?=[^/\s]+\.onnx)", "", said)


def summary(cells: list[dict]) -> dict:
    """How often it answered, refused and was wrong, for each disturbance."""
    answer = {}
    for name in dict.fromkeys(c["disturbance"] for c in cells):
        of = [c for c in cells if c["disturbance"] == name]
        off = [abs(math.log(c["speedup"])) for c in of if "speedup" in c]
        answer[name] = {
            "cells": len(of),
            "answered": len(off),
            "refused": sum(c["exit_code"] == REFUSED for c in of),
            "out_of_time": sum(c["exit_code"] is None for c in of),
            "wrong": sum(c["wrong"] for c in of),
            "worst": math.expm1(max(off)) if off else None,
        }
    return {
        "answered": sum(a["answered"] for a in answer.values()),
        "refused": sum(a["refused"] for a in answer.values()),
        "wrong": sum(a["wrong"] for a in answer.values()),
        "disturbances": answer,
    }


def networks(work: Path) -> dict[float, Path]:
    """Chains of convolutions that take about so many milliseconds here, on one thread."""
    work.mkdir(parents=True, exist_ok=True)
    device = this_device()
    files = {}
    for size_ms in SIZES_MS:
        file = work / f"{size_ms}ms.onnx"
        if not file.exists():
            side = 16
            for _ in range(4):
                model = chain(side)
                feed = {"input": np.random.default_rng(0).standard_normal((1, 16, side, side))}
                feed["input"] = feed["input"].astype(np.float32)
                opened = Running(model, feed, device)
                took_ms = 1e3 * float(np.median([opened.run_s() for _ in range(10)]))
                side = max(4, round(side * math.sqrt(size_ms / took_ms)))
            onnx.save(chain(side), str(file))
        files[size_ms] = file
    return files


def chain(side: int, layers: int = 8) -> onnx.ModelProto:
    """3×3 convolutions of 16 channels on square inputs, each with a ReLU."""
    rng = np.random.default_rng(0)
    nodes, weights, last = [], [], "input"
    for i in range(layers):
        weight = rng.standard_normal((16, 16, 3, 3)) / 12
        weights.append(numpy_helper.from_array(weight.astype(np.float32), f"w{i}"))
        nodes.append(helper.make_node("Conv", [last, f"w{i}"], [f"c{i}"], pads=[1, 1, 1, 1]))
        last = f"r{i}" if i < layers - 1 else "output"
        nodes.append(helper.make_node("Relu", [f"c{i}"], [last]))
    shape = [1, 16, side, side]
    ends = [
        helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, shape) for n in ("input", "output")
    ]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


if __name__ == "__main__":
    typer.run(main)
