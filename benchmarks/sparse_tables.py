"""Tables of widths, blocks and densities: their errors on networks that they never saw.

    python -m benchmarks.sparse_tables [NETWORK …]

`latprof profile --kernels block_sparse`, each in a process of its own, into runs/sparse_tables. It
can be interrupted: what the result file holds is not measured again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.profiles import made
from benchmarks.results import RESULTS, save

NETWORKS = ["resnet20", "resnet56", "vgg16_32", "mobilenet_v1_32", "resnet18"]
PLACE = Path("runs/sparse_tables")
RESULT = "sparse_tables"


def main(networks: Annotated[list[str] | None, typer.Argument()] = None) -> None:
    path = RESULTS / f"{RESULT}.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    have = {row["network"] for row in rows}
    for name in networks or NETWORKS:
        if name in have:
            continue
        rows.append(made(name, PLACE / name, options=["--kernels", "block_sparse"]))
        print(json.dumps(rows[-1]), flush=True)
        save(RESULT, {"rows": rows})
    print(path)


if __name__ == "__main__":
    typer.run(main)
