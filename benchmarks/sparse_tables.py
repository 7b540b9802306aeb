"""Tables of widths, blocks and densities: their errors on networks that they never saw.

    python -m benchmarks.sparse_tables [--again] [NETWORK …]

`latprof profile --kernels block_sparse`, each in a process of its own, into runs/sparse_tables. It
can be interrupted: what the result file holds is not measured again. `--again` measures those
anew of which the profile said that something else used the machine.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.profiles import made
from benchmarks.results import RESULTS, save

NETWORKS = ["resnet20", "resnet56", "vgg16_32", "mobilenet_v1_32", "resnet18"]
PLACE = Path("runs/sparse_tables")
RESULT = "sparse_tables"


def main(
    networks: Annotated[list[str] | None, typer.Argument()] = None, again: bool = False
) -> None:
    path = RESULTS / f"{RESULT}.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    busy = {row["network"] for row in rows if again and "warned" in row}
    have = {row["network"] for row in rows} - busy
    for name in networks or NETWORKS:
        if name in have:
            continue
        if name in busy and (PLACE / name).exists():
            shutil.rmtree(PLACE / name)
        row = made(name, PLACE / name, options=["--kernels", "block_sparse"])
        rows = [*(row for row in rows if row["network"] != name), row]
        print(json.dumps(rows[-1]), flush=True)
        save(RESULT, {"rows": rows})
    print(path)


if __name__ == "__main__":
    typer.run(main)
