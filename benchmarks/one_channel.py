"""What one channel is worth: each group of a network narrower by one channel and by a block.

A runtime that takes channels in blocks runs a layer in other kernels where its width is no multiple
of the block. Which are faster depends on the layer, so the width below the full one may be the
faster network, or the slower; no count of operations tells. Every group in turn gets one channel
fewer, then one block fewer; predicted by the table and measured beside the dense network.

    python -m benchmarks.one_channel [--network vgg16_32] [--threads 1]
"""

from __future__ import annotations

import numpy as np
import typer

from benchmarks.here import table_here
from benchmarks.results import save
from latprof.profile.judge import measured_beside_dense
from lookup_tables.architecture import Architecture
from lookup_tables.model.latency_model import LatencyModel
from lookup_tables.network import Network
from lookup_tables.table.settled import undisturbed

BLOCK = 16  # channels


def main(network: str = "vgg16_32", threads: int = 1) -> None:
    device, table = table_here(threads)
    net = table.load_network(network)
    model = LatencyModel(net, table)
    asked = [
        {"group": group.name, "width": group.width, "fewer": fewer}
        for group in net.groups
        for fewer in (1, BLOCK)
    ]
    narrowed = [_narrowed(net, each["group"], each["fewer"]) for each in asked]
    runs = measured_beside_dense(net, table, narrowed)
    quiet = {run.run for run in undisturbed(runs)}
    rows = [
        each
        | {"predicted": model.latency_s(run.architecture) / model.dense_s, "measured": run.ratio}
        for each, run in zip(asked, runs, strict=True)
        if run.run in quiet
    ]
    errors = np.array([row["predicted"] / row["measured"] - 1 for row in rows])
    facts = {
        "device": device.model_dump(exclude_none=True),
        "network": network,
        "dense_ms": model.dense_s * 1e3,
        "rmspe": float(np.sqrt(np.mean(errors**2))),
        "worst": float(errors[np.abs(errors).argmax()]),
        "rows": rows,
    }
    print(save(f"one_channel_{network}_{device.name}", facts))


def _narrowed(network: Network, group: str, fewer: int) -> Architecture:
    widths = network.widths(network.dense)
    return Architecture(widths={**widths, group: widths[group] - fewer})


if __name__ == "__main__":
    typer.run(main)
