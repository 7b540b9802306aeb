"""Is a table's error what fresh processes find later? As published, and by `latprof validate`.

    python -m benchmarks.fresh_process [NETWORK …]

The first call makes the tables in runs/fresh_process; that one and every further one judges each by
60 networks that it never saw, 30 on the menu and 30 at any width, and adds a row to the result: the
error by the rounds that count, beside what all rounds would say. Call it again an hour later.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.profiles import judged, made
from benchmarks.results import RESULTS, save

NETWORKS = ["resnet56", "mobilenet_v1", "vgg16_32"]
PLACE = Path("runs/fresh_process")
RESULT = "fresh_process"


def main(networks: Annotated[list[str] | None, typer.Argument()] = None) -> None:
    path = RESULTS / f"{RESULT}.json"
    known = json.loads(path.read_text())["networks"] if path.exists() else {}
    for name in networks or NETWORKS:
        if name not in known or not (PLACE / name).exists():
            known[name] = {"published": made(name, PLACE / name), "later": []}
        published, later = known[name]["published"], known[name]["later"]
        found = judged(name, PLACE / name, seed=1 + len(later))
        passed = datetime.fromisoformat(found["at"]) - datetime.fromisoformat(published["at"])
        later.append({"minutes_after": passed.total_seconds() / 60} | found)
        save(RESULT, {"networks": known})
        for when, row in (("published", published), ("now", later[-1])):
            print(name, when, row.get("menu"), row.get("any"), row.get("said", ""), flush=True)


if __name__ == "__main__":
    typer.run(main)
