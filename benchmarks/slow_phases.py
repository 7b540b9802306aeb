"""Do slow phases of the machine keep ratios, and does the pace of the core tell them?

    python -m benchmarks.slow_phases [--minutes 4]

Fresh pairs of sessions of ResNet-56 and of three pruned ones at odd widths, by turns. Every round
is told apart by the arithmetic around it: the core was ours, or something shared it. `shift`: how
far a ratio moves for what the arithmetic slows down, log ratio / log slowness.
"""

from __future__ import annotations

import math
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import typer

from benchmarks.results import save
from latprof.machine.cores import Cores
from latprof.machine.pace import Pace
from latprof.onnx.writer import build
from latprof.profile.compare import _rounds
from latprof.profile.design import any_width
from latprof.runtimes.here import this_device
from lookup_tables.network import Network
from lookup_tables.noise import SLOW_CORE, Rounds

FEWEST = 5  # rounds of a kind in a session


def main(minutes: float = 4.0, network: str = "resnet56", pruned: int = 3) -> None:
    device, loaded = this_device(), Network.load(network)
    pace, rows = Pace(device), []
    with tempfile.TemporaryDirectory() as place, Cores(device) as cores:
        dense = Path(place) / "dense.onnx"
        onnx.save(build(loaded, loaded.dense), str(dense))
        files = []
        for seed in range(pruned):
            files.append(Path(place) / f"{seed}.onnx")
            chosen = any_width(loaded, np.random.default_rng(seed))
            onnx.save(build(loaded, chosen), str(files[-1]))
        start_s = time.perf_counter()
        while time.perf_counter() - start_s < 60 * minutes:
            number = len(rows) % pruned
            rounds = _rounds(dense, files[number], device, 0.0, cores, pace)
            at_s = time.perf_counter() - start_s
            rows.append({"at_s": at_s, "network": number, **told_apart(rounds)})
    pace.remember()
    print(save("slow_phases", {"network": network, "summary": summary(rows), "rows": rows}))


def told_apart(rounds: Rounds) -> dict:
    """Of a session's rounds on our own core and on a shared one: ratio and dense milliseconds."""
    slowness = np.array(rounds.slowness)
    known = rounds.undisturbed() & (slowness < math.inf)
    answer = {"rounds": len(slowness), "all_ratio": rounds.ratio()}
    for kind, kept in (
        ("ours", known & (slowness <= SLOW_CORE)),
        ("shared", known & (slowness > SLOW_CORE)),
    ):
        if kept.sum() >= FEWEST:
            answer[kind] = {
                "rounds": int(kept.sum()),
                "ratio": rounds.ratio(kept),
                "dense_ms": 1e3 * float(np.median(rounds.both_dense_s(kept))),
                "slowness": float(np.median(slowness[kept])),
            }
    return answer


def summary(rows: list[dict]) -> dict:
    """For each kind of rounds, how far sessions lie from the median of those on our own core."""
    answer = {}
    numbers = sorted({row["network"] for row in rows})
    ours = {
        n: np.median([r["ours"]["ratio"] for r in rows if r["network"] == n and "ours" in r])
        for n in numbers
    }
    quiet_ms = np.median([row["ours"]["dense_ms"] for row in rows if "ours" in row])
    answer["ours_ratio"] = [float(ours[n]) for n in numbers]
    for kind in ("ours", "shared"):
        some = [(row[kind], ours[row["network"]]) for row in rows if kind in row]
        answer[kind] = {"sessions": len(some), "rounds": sum(each["rounds"] for each, _ in some)}
        if not some:
            continue
        moved = np.array([each["ratio"] / quiet - 1 for each, quiet in some])
        answer[kind] |= {
            "ratio_moved_median": float(np.median(moved)),
            "ratio_moved_p5_p95": np.percentile(moved, [5, 95]).tolist(),
            "dense_slower_median": float(
                np.median([e["dense_ms"] for e, _ in some]) / quiet_ms - 1
            ),
            "slowness_median": float(np.median([each["slowness"] for each, _ in some])),
        }
        if kind == "shared":
            shift = [abs(np.log(e["ratio"] / q)) / np.log(e["slowness"]) for e, q in some]
            answer[kind]["shift_median"] = float(np.median(shift))
            answer[kind]["shift_p90"] = float(np.percentile(shift, 90))
    moved = [row["all_ratio"] / ours[row["network"]] - 1 for row in rows]
    answer["all_rounds"] = {"ratio_moved_p5_p95": np.percentile(moved, [5, 95]).tolist()}
    return answer


if __name__ == "__main__":
    typer.run(main)
