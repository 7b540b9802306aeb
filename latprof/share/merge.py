"""Two tables of one device become one: networks of both, and of the same network both's runs."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from latprof.profile.judge import validation
from lookup_tables.errors import TableError
from lookup_tables.model.latency_model import LatencyModel
from lookup_tables.storage.files import write_whole
from lookup_tables.storage.manifest import expected, read_sealed
from lookup_tables.table.rows import Run, Validation
from lookup_tables.table.store import IDENTITY, LatencyTable


def merge(first: LatencyTable, second: LatencyTable, folder: Path) -> LatencyTable:
    """Write a table with everything of both into a new folder; the two stay as they are.

    Of a network that both hold, the second's runs become further attempts of the first's or,
    where they were of other architectures, further runs, and the table is judged anew. Raises
    DeviceMismatch for tables of two devices, TableError where the same network was profiled by
    two plans.
    """
    first.device.require(second.device, f"table {second.folder}")
    if folder.exists() and any(folder.iterdir()):
        raise TableError(f"{folder} is not empty; give --out a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".merge-") as place:
        merged = LatencyTable.create(Path(place) / "table", first.device)
        for network in sorted({*first.networks(), *second.networks()}):
            holders = [table for table in (first, second) if network in table.networks()]
            _merge_network(merged, holders, network)
        if folder.exists():
            folder.rmdir()
        os.replace(merged.folder, folder)
    return LatencyTable.open(folder)


def _merge_network(merged: LatencyTable, holders: Sequence[LatencyTable], network: str) -> None:
    longest = max(holders, key=lambda table: len(table.rows(network)))
    if all(_begins(longest, holder, network) for holder in holders):
        for name in longest.files(network):
            if name != IDENTITY:
                write_whole(merged.folder / name, read_sealed(longest.folder / name))
    else:
        _join(merged, holders, network)
    if merged.validation(network):
        merged.seal(network)


def _begins(longer: LatencyTable, table: LatencyTable, network: str) -> bool:
    """Whether a table's rows are the first of the longer one's."""
    rows = table.rows(network)
    return longer.rows(network)[: len(rows)] == rows


def _join(merged: LatencyTable, holders: Sequence[LatencyTable], network: str) -> None:
    plan, other = (holder.plan(network) for holder in holders)
    assert plan is not None, "a network with rows has a plan"
    if plan != other:
        differing = [n for n, value in plan if getattr(other, n) != value]
        raise TableError(
            f"{network}: {holders[0].path(network)} and {holders[1].path(network)} were profiled "
            f"with different plans ({', '.join(differing)} differ); keep them in two tables"
        )
    merged.append(network, [plan, *_joined_runs(holders, network)])
    for path_of in (LatencyTable.network_path, LatencyTable.prior_path):
        content = {read_sealed(p) for holder in holders if expected(p := path_of(holder, network))}
        if len(content) > 1:
            names = " and ".join(str(path_of(holder, network)) for holder in holders)
            raise TableError(f"{names} differ; keep them in two tables")
        for data in content:
            write_whole(path_of(merged, network), data)
    _judge(merged, network, [holder.validation(network) for holder in holders])


def _joined_runs(holders: Sequence[LatencyTable], network: str) -> list[Run]:
    """The first table's runs, then the second's: as further attempts, or under free numbers.

    Runs that a profile chose while measuring have the same numbers in both, and are of other
    architectures.
    """
    first, second = ([r for r in h.rows(network) if isinstance(r, Run)] for h in holders)
    joined = {run.key: run for run in first}
    architectures = {(run.purpose, run.run): run.architecture for run in first}
    moved: dict[tuple[str, int], int] = {}  # the second's (purpose, run) → its number here
    for run in second:
        if joined.get(run.key) == run:
            continue  # both begin with it
        here = (run.purpose, run.run)
        if here not in moved:
            taken = architectures.get(here, run.architecture) != run.architecture
            numbers = [number for purpose, number in architectures if purpose == run.purpose]
            moved[here] = max(numbers) + 1 if taken else run.run
            architectures.setdefault((run.purpose, moved[here]), run.architecture)
        number = moved[here]
        attempts = [
            attempt for purpose, n, attempt in joined if (purpose, n) == (run.purpose, number)
        ]
        attempt = max(attempts, default=-1) + 1
        renumbered = run.model_copy(update={"run": number, "attempt": attempt})
        joined[renumbered.key] = renumbered
    return [*joined.values()]


def _judge(table: LatencyTable, network: str, written: Sequence[Validation | None]) -> None:
    """The table's own error with all of its runs, as old as the older of the two."""
    ended = [one for one in written if one is not None]
    if len(ended) < len(written):
        return  # of what is not finished, `latprof profile` measures the rest and judges it
    known = table.load_network(network)
    model, runs = LatencyModel(known, table), table.settled_runs(known, "unseen")
    spent_s = sum(one.measuring_s for one in ended)
    measured_at = min(one.measured_at for one in ended)
    reasons = {one.stopped for one in ended}
    stopped_by = reasons.pop() if len(reasons) == 1 else "budget"
    table.append(
        network,
        [
            validation(model, table, runs, widths, spent_s, stopped_by).model_copy(
                update={"measured_at": measured_at}
            )
            for widths in ("menu", "any")
        ],
    )
