"""A table for a device of a kind already known: another's table, corrected by few networks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from latprof.profile.journey import Goal, ProfileResult, profile_locked
from lookup_tables.device import Device
from lookup_tables.errors import TableError
from lookup_tables.model.latency_model import LatencyModel
from lookup_tables.network import Network
from lookup_tables.storage.files import only_writer
from lookup_tables.table.store import LatencyTable

SAMPLES = 20  # networks measured layer by layer, unless told otherwise
UNSEEN = 10  # of each kind, on the menu and at any width: they tell the error


def transfer(
    network: Network,
    source: LatencyTable,
    device: Device,
    folder: str | Path,
    *,
    samples: int = SAMPLES,
    unseen: int = UNSEEN,
    report: Callable[[int, int, str], None] = lambda done, total, text: None,
    warn: Callable[[str], None] = lambda text: None,
) -> ProfileResult:
    """Measure a few networks on a device into a table that another's helps to read.

    The table is an ordinary one and holds only what was measured here; the other's layers lie
    beside its rows as a prior. `latprof profile` into the same folder makes it a whole one, which
    the prior no longer touches. Raises
    TableError if the two devices are the same, if either leaves out weights, or if the folder holds
    a table without a prior.
    """
    if device.block or source.device.block:
        raise TableError(
            "a table of sparse layers cannot be transferred: what densities cost on another device "
            "has not been studied. Measure it: latprof profile --kernels block_sparse"
        )
    if not device.differences(source.device):
        raise TableError(
            f"{source.folder} was measured on this very device: use it as it is, or copy it"
        )
    plan = source.require_network(network)
    table = LatencyTable.create(folder, device)
    with only_writer(folder):
        _keep_prior(table, network, source)
        return profile_locked(
            network,
            device,
            folder,
            levels=plan.levels,
            goal=Goal(samples=unseen),
            seed=plan.seed,
            few=samples,
            report=report,
            warn=warn,
        )


def _keep_prior(table: LatencyTable, network: Network, source: LatencyTable) -> None:
    """What the other table says, beside the rows; raises TableError where they began otherwise."""
    prior = table.prior(network)
    if prior is not None and prior.device != source.device:
        raise TableError(
            f"{table.prior_path(network.name)} was begun from {prior.device.name}; continue with "
            "--from that table, or transfer into another folder"
        )
    if prior is None:
        if table.plan(network.name) is not None:
            raise TableError(
                f"{table.path(network.name)} was profiled without another table. Continue it with "
                f"latprof profile --network {network.name} --out {table.folder}, or transfer into "
                "another folder"
            )
        LatencyModel(network, source).as_prior().save(table.prior_path(network.name))
