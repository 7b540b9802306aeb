"""What deciding by both networks costs on an idle machine: time to a table and its error.

    python -m benchmarks.rule_cost [--repeats 2] [--any-core] [NETWORK …]

By turns the code before the present rule and the present one profile the same networks; every table
is then judged by the same fresh networks. It can be interrupted: what is there is kept. With
`--any-core` rounds on shared cores count too: nothing is waited for, and only the rule's own work
is told.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.profiles import HERE, checkout, judged, made
from benchmarks.results import RESULTS, save

NETWORKS = ["resnet20", "resnet56", "mobilenet_v1"]
BEFORE = "d5f2aab"  # decided by the dense network alone
PLACE = Path("runs/rule_cost")
RESULT = "rule_cost"


def main(
    networks: Annotated[list[str] | None, typer.Argument()] = None,
    repeats: int = 2,
    any_core: bool = False,
) -> None:
    name_of_result = RESULT + ("_any_core" if any_core else "")
    if any_core:
        os.environ["LATPROF_ANY_CORE"] = "1"
    trees = {"before": checkout(BEFORE, PLACE / "tree"), "after": HERE}
    path = RESULTS / f"{name_of_result}.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    have = {(row["network"], row["repeat"], row["rule"]) for row in rows}
    for repeat in range(repeats):
        for name in networks or NETWORKS:
            order = [*trees] if repeat % 2 == 0 else [*reversed(trees)]
            for rule in order:
                if (name, repeat, rule) in have:
                    continue
                table = PLACE / f"{name_of_result}_{name}_{rule}_{repeat}"
                row = {"rule": rule, "repeat": repeat} | made(name, table, trees[rule])
                row["fresh"] = judged(name, table, samples=40)
                rows.append(row)
                save(name_of_result, {"before": BEFORE, "summary": summary(rows), "rows": rows})
                print(json.dumps(row), flush=True)
    print(path)


def summary(rows: list[dict]) -> dict:
    """For each network the ratio of the times to a table, and both rules' errors by fresh runs."""
    answer = {}
    for name in dict.fromkeys(row["network"] for row in rows):
        of = {
            rule: [r for r in rows if r["network"] == name and r["rule"] == rule and "menu" in r]
            for rule in ("before", "after")
        }
        if not all(of.values()):
            continue
        pairs = zip(of["before"], of["after"], strict=False)
        answer[name] = {
            "time_ratios": [after["seconds"] / before["seconds"] for before, after in pairs]
        } | {
            f"{widths}_{rule}": float(np.mean([row["fresh"][widths]["rmspe"] for row in each]))
            for widths in ("menu", "any")
            for rule, each in of.items()
            if all(widths in row["fresh"] for row in each)
        }
    return answer


if __name__ == "__main__":
    typer.run(main)
