"""Write results by today's names of methods and settings; figures are not touched.

    python -m benchmarks.names

An earlier version called Thompson sampling `lap`, a later one the agent that is `rl` now. What each
row's agent was is in the file, so the names follow from it (pruner/run/former.py).
"""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.results import RESULTS
from lookup_tables.storage.files import write_whole
from pruner.run.former import NAMES, comparison_of_today, method_of_today


def main() -> None:
    for path in sorted(RESULTS.glob("compare/*.json")):
        _rewrite(path, comparison_of_today)
    for path in sorted(RESULTS.glob("regret_*.json")):
        _rewrite(path, _regret)
    for path in sorted(RESULTS.glob("score_found_*.json")):
        _rewrite(path, _rows)


def _rewrite(path: Path, of_today) -> None:
    before = json.loads(path.read_text())
    now = of_today(before) if before.get("names", 1) != NAMES else before
    if now != before:
        write_whole(path, json.dumps(now, indent=1) + "\n")
        print(path)


def _regret(content: dict) -> dict:
    """Of two that are called alike today the later one counts: it was found on the same machine."""
    names = content.get("names", 1)
    named = {method_of_today(name, names): found for name, found in content["methods"].items()}
    return content | {"names": NAMES, "methods": named}


def _rows(content: dict) -> dict:
    names = content.get("names", 1)
    named = [row | {"method": method_of_today(row["method"], names)} for row in content["rows"]]
    return content | {"names": NAMES, "rows": named}


if __name__ == "__main__":
    main()
