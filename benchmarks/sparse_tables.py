"""Tables of widths, blocks and densities: their errors on networks that they never saw.

    python -m benchmarks.sparse_tables [--precision fp32] [--plain] [--again] [NETWORK …]

`latprof profile --kernels block_sparse`, each in a process of its own, into runs/. With `--plain`
without densities, in plain ONNX Runtime. It can be interrupted: what the result file holds is not
measured again. `--again` measures those anew of which the profile said that something else used
the machine.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.profiles import made
from benchmarks.results import RESULTS, save

NETWORKS = {
    "fp32": ["resnet20", "resnet56", "vgg16_32", "mobilenet_v1_32", "resnet18"],
    "int8": ["resnet20", "resnet56", "mobilenet_v1_32", "resnet18", "mobilenet_v1"],
}


def main(
    networks: Annotated[list[str] | None, typer.Argument()] = None,
    again: bool = False,
    precision: str = "fp32",
    plain: bool = False,
) -> None:
    result = "plain_tables" if plain else "sparse_tables"
    result += "" if precision == "fp32" else f"_{precision}"
    options = [] if plain else ["--kernels", "block_sparse"]
    options += [] if precision == "fp32" else ["--precision", precision]
    path, place = RESULTS / f"{result}.json", Path("runs") / result
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    busy = {row["network"] for row in rows if again and "warned" in row}
    have = {row["network"] for row in rows} - busy
    for name in networks or NETWORKS[precision]:
        if name in have:
            continue
        if name in busy and (place / name).exists():
            shutil.rmtree(place / name)
        row = made(name, place / name, options=options)
        rows = [*(row for row in rows if row["network"] != name), row]
        print(json.dumps(rows[-1]), flush=True)
        save(result, {"rows": rows})
    print(path)


if __name__ == "__main__":
    typer.run(main)
