"""What a profile would have to do, without doing it."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from latprof.profile.journey import Foreseen, Goal, Journey, require_choices
from lookup_tables.device import Device
from lookup_tables.errors import TableError
from lookup_tables.network import Network
from lookup_tables.storage.manifest import expected, read_sealed
from lookup_tables.table.store import IDENTITY, LatencyTable

UNTIL_DONE = Goal()


def foresee(
    network: Network,
    device: Device,
    folder: str | Path,
    *,
    levels: int = 8,
    goal: Goal = UNTIL_DONE,
    seed: int = 0,
) -> Foreseen:
    """What `profile` would do with these arguments, after timing the dense network.

    Nothing is written into the folder. Goes by the dense network's own time and by what opening it
    costs; a profile that stops at an error may need fewer or more. Raises what `profile` would
    raise before it measures.
    """
    require_choices(network)
    if (Path(folder) / IDENTITY).exists():
        device.require(LatencyTable.open(folder).device, f"table {folder}")
    with TemporaryDirectory(prefix="latprof-") as place:
        copy = Path(place) / "table"
        _copy_rows(LatencyTable(Path(folder), device), network.name, copy)
        try:
            journey = Journey(network, device, copy, levels, goal, seed, None, lambda *_: None)
            return journey.foreseen()
        except TableError as error:
            raise TableError(str(error).replace(str(copy), str(folder))) from None


def _copy_rows(table: LatencyTable, network: str, copy: Path) -> None:
    copy.mkdir()
    for path in (table.folder / IDENTITY, table.path(network), table.prior_path(network)):
        if expected(path):
            (copy / path.name).write_bytes(read_sealed(path))
