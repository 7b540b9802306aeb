"""Do slow phases of the machine keep ratios, and do the fixed works tell them?

    python -m benchmarks.slow_phases [--minutes 5]

Fresh pairs of sessions of ResNet-56 and of three pruned ones at odd widths, by turns, with a probe
before and after each. A session is held against the median of the quiet ones: by how much its
ratio, its dense network and the probes' works differ. `shift` says how far a ratio moves for what a
slow phase slows: log |ratio| / log slowness, of the sessions that met one.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import typer

from benchmarks.results import save
from latprof.compare import _rounds
from latprof.cores import Cores
from latprof.design import any_width
from latprof.detect import this_device
from latprof.onnx_model import build
from latprof.probe import WORKS, Speed
from lookup_tables.network import Network
from lookup_tables.noise import is_slow_phase, rounds_that_count


def main(minutes: float = 5.0, network: str = "resnet56", pruned: int = 3) -> None:
    device, loaded = this_device(), Network.load(network)
    speed, rows = Speed(device), []
    with tempfile.TemporaryDirectory() as place, Cores(device) as cores:
        dense = Path(place) / "dense.onnx"
        onnx.save(build(loaded, loaded.dense), str(dense))
        files = []
        for seed in range(pruned):
            files.append(Path(place) / f"{seed}.onnx")
            chosen = any_width(loaded, np.random.default_rng(seed))
            onnx.save(build(loaded, chosen), str(files[-1]))
        start_s = time.perf_counter()
        speed.probe()
        while time.perf_counter() - start_s < 60 * minutes:
            number = len(rows) % pruned
            rounds = _rounds(dense, files[number], device, 0.0, cores)
            speed.probe()
            (kept,) = rounds_that_count([rounds])
            levels = rounds.levels_s()
            rows.append(
                {
                    "at_s": time.perf_counter() - start_s,
                    "network": number,
                    "dense_ms": levels and 1e3 * levels[0],
                    "ratio": float(np.median(rounds.ratios[kept])) if kept.any() else None,
                    "unselected_ratio": float(np.median(rounds.ratios)),
                }
            )
    for row, slowness in zip(rows, speed.slowness(), strict=True):
        row |= dict(zip(WORKS, slowness.tolist(), strict=True))
    print(save("slow_phases", {"summary": summary(rows), "rows": rows}))


def summary(rows: list[dict]) -> dict:
    """How sessions differ from the quiet ones, those that a work calls slow and the others."""
    rows = [row for row in rows if row["ratio"]]
    quiet_ms = np.percentile([row["dense_ms"] for row in rows], 10)
    quiet = {}
    for number in {row["network"] for row in rows}:
        calm = [r["ratio"] for r in rows if r["network"] == number and not _slow(r)]
        quiet[number] = float(np.median(calm))
    found = {"slow": [r for r in rows if _slow(r)], "quiet": [r for r in rows if not _slow(r)]}
    answer = {}
    for kind, some in found.items():
        moved = np.array([abs(np.log(r["ratio"] / quiet[r["network"]])) for r in some])
        slower = np.array([r["dense_ms"] / quiet_ms for r in some])
        slowest = np.array([max(r[work] for work in WORKS) for r in some])
        answer[kind] = {"sessions": len(some)}
        if some:
            answer[kind] |= {
                "ratio_moved_median": float(np.median(moved)),
                "ratio_moved_p95": float(np.percentile(moved, 95)),
                "ratio_moved_worst": float(moved.max()),
                "dense_slower_median": float(np.median(slower)),
                "dense_slower_worst": float(slower.max()),
            }
        if some and kind == "slow":
            shift = moved / np.log(slowest)
            answer[kind]["shift_p90"] = float(np.percentile(shift, 90))
    return answer


def _slow(row: dict) -> bool:
    return any(is_slow_phase([row[work] for work in WORKS]))


if __name__ == "__main__":
    typer.run(main)
