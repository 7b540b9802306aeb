"""LatencyTable: create, append, load, verify. FORMAT.md has the format on one screen.

A table is a folder: `device.json` says what was measured, `<network>.jsonl` holds one network's
rows. Rows are only ever appended, one line each, so a killed writer loses at most one row.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from lookup_tables.device import Device
from lookup_tables.errors import ArchitectureError, NetworkError, TableError
from lookup_tables.network import Layer, Network, network_names
from lookup_tables.storage.files import refuse_newer
from lookup_tables.storage.manifest import expected, load_manifest, read_sealed, seal, unseal
from lookup_tables.table.prior import Prior
from lookup_tables.table.rows import (
    FORMAT,
    Plan,
    Row,
    Run,
    Validation,
    Widths,
    check_order,
    parse,
    to_line,
    truncated,
)
from lookup_tables.table.settled import settle

IDENTITY = "device.json"
IMPLAUSIBLE = 20  # times as long as the dense network: no pruned one's layers are
LONGER = 2  # times the time a run had, that its pairs cannot have taken


class LatencyTable:
    """The rows of one device. Open one with `open` or `create`."""

    def __init__(self, folder: Path, device: Device) -> None:
        self.folder, self.device = folder, device
        self._read: dict[str, tuple[_State, list[Row]]] = {}  # network → its file then, its rows
        self._plausible: dict[str, list[Row]] = {}  # network → rows that were looked at

    @classmethod
    def create(cls, folder: str | Path, device: Device) -> LatencyTable:
        """A new table, or the existing one of the same device; raises DeviceMismatch."""
        folder = Path(folder)
        if expected(folder / IDENTITY):
            table = cls.open(folder)
            device.require(table.device, f"table {folder}")
            return table
        if any(folder.glob("*.jsonl")):
            raise TableError(
                f"{folder} holds rows but no {IDENTITY}: the copy is incomplete and does not say "
                "which device was measured. Copy it again, or choose another --out"
            )
        folder.mkdir(parents=True, exist_ok=True)
        device.save(folder / IDENTITY)
        return cls(folder, device)

    @classmethod
    def open(cls, folder: str | Path) -> LatencyTable:
        """An existing table; raises TableError if there is none."""
        folder = Path(folder)
        return cls(folder, Device.load(folder / IDENTITY))

    def path(self, network: str) -> Path:
        return self.folder / f"{network}.jsonl"

    def network_path(self, network: str) -> Path:
        """Where a network that is not shipped lies beside its rows."""
        return self.folder / f"{network}.network.json"

    def prior_path(self, network: str) -> Path:
        """Where another device's table is summed up, if this one began with it."""
        return self.folder / f"{network}.prior.json"

    def prior(self, network: Network) -> Prior | None:
        """What another device's table says of this network, if `latprof transfer` used one."""
        path = self.prior_path(network.name)
        if not expected(path):
            return None
        prior = Prior.load(path)
        if prior.fingerprint != network.fingerprint:
            raise TableError(
                f"{path} belongs to another network that is also called {network.name}"
            )
        return prior

    def load_network(self, name: str) -> Network:
        """The network beside its rows, or the shipped one; raises NetworkError."""
        beside = self.network_path(name)
        return Network.load(beside if expected(beside) else name)

    def networks(self) -> list[str]:
        """Those whose rows are there, or should be."""
        manifest = load_manifest(self.folder)
        sealed = manifest.networks() if manifest else []
        return sorted({*sealed, *(path.stem for path in self.folder.glob("*.jsonl"))})

    def pricing(self, network: Network) -> Network:
        """The network whose rows tell what `network` takes: itself, if it was measured.

        Else one that differs only in telling more classes apart. What is predicted then is never
        too little: its last layer, which no architecture changes, takes a little longer. Raises
        TableError where there is neither.
        """
        plan = self.plan(network.name)
        if plan is not None and plan.fingerprint == network.fingerprint:
            return network
        found = [*self._standing_in(network)]
        if not found:
            self.require_network(network)
            return network
        # Finished ones first, then those with the fewest classes.
        best = min(found, key=lambda known: (self.validation(known.name) is None, _outputs(known)))
        return best.with_blocks(network.blocks)

    def _standing_in(self, network: Network) -> Iterator[Network]:
        """The networks with rows here that are `network` for more classes."""
        for name in self.networks():
            try:
                known = self.load_network(name)
            except NetworkError:  # neither beside its rows nor shipped any more
                continue
            if known.tells_more_apart(network):
                plan = self.plan(name)
                if plan is not None and plan.fingerprint == known.fingerprint:
                    yield known

    # -- reading -------------------------------------------------------------------------------

    def rows(self, network: str) -> list[Row]:
        """Every row of one network, verified; raises TableError naming file and line."""
        path = self.path(network)
        state, rows = self._read.get(network, (None, []))
        if state is not None and state == _state_of(path):
            return rows
        state = _state_of(path)
        try:
            data = read_sealed(path)
        except FileNotFoundError:
            known = ", ".join(self.networks()) or "none yet"
            file = network if network in network_names() else f"{network}.json"
            trace = "" if file == network else f" (`pruner trace --out {file}` makes the file)"
            raise TableError(
                f"{path}: this table holds no network {network!r} (it holds: {known}). Measure it "
                f"on {self.device.name}{trace}: latprof profile --network {file} --out "
                f"{self.folder}"
            ) from None
        lines = data.splitlines()
        if data and not data.endswith(b"\n"):
            raise truncated(path, len(lines))
        if not lines:
            raise truncated(path, 1)
        refuse_newer(path, lines[0], FORMAT, TableError)
        rows = [parse(path, number, line) for number, line in enumerate(lines, 1)]
        check_order(path, rows)
        if state is not None and state.bytes == len(data):  # else it grew meanwhile
            self._read[network] = (state, rows)
        return rows

    def digest(self, network: str) -> str:
        """SHA-256 of what predictions follow from: plan, runs, and a prior beside them."""
        self.rows(network)  # verified
        lines = self.path(network).read_bytes().splitlines()
        decisive = [line for line in lines if json.loads(line)["row"] != "validation"]
        found = hashlib.sha256(b"\n".join(decisive))
        if expected(prior := self.prior_path(network)):
            found.update(read_sealed(prior))
        return found.hexdigest()

    def plan(self, network: str) -> Plan | None:
        """How this network's runs were chosen, None if it was never begun."""
        path = self.path(network)
        if not path.exists() or path.stat().st_size == 0:
            return None
        first = self.rows(network)[0]
        assert isinstance(first, Plan), "no other row comes first"
        return first

    def runs(self, network: Network, purpose: str | None = None) -> list[Run]:
        """All runs of a network; raises TableError if the table is of another network.

        And if it holds a run that cannot be one of that network, naming its line.
        """
        self.require_network(network)
        rows = self.rows(network.name)
        if self._plausible.get(network.name) is not rows:
            for number, row in enumerate(rows, 1):
                if isinstance(row, Run):
                    require_plausible(row, network, f"{self.path(network.name)}, line {number}")
            self._plausible[network.name] = rows
        return [r for r in rows if isinstance(r, Run) and purpose in (None, r.purpose)]

    def settled_runs(self, network: Network, purpose: str) -> list[Run]:
        """One run per architecture: medians of its undisturbed attempts."""
        attempts: dict[int, list[Run]] = {}
        for run in self.runs(network, purpose):
            attempts.setdefault(run.run, []).append(run)
        return [settle(attempts[number]) for number in sorted(attempts)]

    def validation(self, network: str, widths: Widths = "menu") -> Validation | None:
        """The last validation written for such widths, None before the first."""
        rows = (row for row in self.rows(network) if isinstance(row, Validation))
        return next((row for row in reversed([*rows]) if row.widths == widths), None)

    def require_network(self, network: Network) -> Plan:
        """How its runs were chosen; raises TableError unless the rows are of this very network."""
        plan = self.plan(network.name)
        if plan is None:
            self.rows(network.name)  # raises: no such network
            raise AssertionError("a network without a plan has no rows")
        if plan.fingerprint != network.fingerprint:
            raise TableError(
                f"{self.path(network.name)} was measured with another network called "
                f"{network.name}: {self._difference(network)}. A table covers one network at one "
                "input size. Trace yours under another name (pruner trace) and profile it on the "
                "table's device, or use the network that was measured"
            )
        return plan

    def _difference(self, network: Network) -> str:
        """In what the network that was measured differs from another one of its name, in words."""
        try:
            known = self.load_network(network.name)
        except NetworkError:
            return "its layers differ"
        if known.input_shape != network.input_shape:
            sizes = ("×".join(map(str, n.input_shape)) for n in (known, network))
            return "{} images there, {} here".format(*sizes)
        for before, now in zip_longest(known.layers, network.layers):
            if before != now:
                return f"{_layer_told(before)} there, {_layer_told(now)} here"
        return "its blocks differ"

    # -- writing -------------------------------------------------------------------------------

    def append(self, network: str, rows: Sequence[Row]) -> None:
        """Add rows; each is on disk before the next is written."""
        path = self.path(network)
        state, known = self._read.pop(network, (None, []))
        now = _state_of(path)
        known = known if now is not None and state == now else []
        is_known = now is None or bool(known)
        with path.open("ab") as file:
            if file.tell() == 0:
                unseal(self.folder, path.name)
            for row in rows:
                file.write(to_line(row))
                file.flush()
                os.fsync(file.fileno())
        written = _state_of(path)
        if is_known and written is not None:
            self._read[network] = (written, [*known, *rows])

    def seal(self, network: str, rewritten: Sequence[str] = ()) -> None:
        """Record in the manifest what this network's files hold, now that they are complete.

        Raises TableError for a file that was sealed before and is damaged; `rewritten` names those
        that were written anew on purpose.
        """
        seal(self.folder, self.device.name, self.files(network), rewritten)

    def files(self, network: str) -> list[str]:
        """The names of the files that this network needs and that are there."""
        paths = (
            self.folder / IDENTITY,
            self.path(network),
            self.network_path(network),
            self.prior_path(network),
            repeats_path(self.folder, network),
        )
        return [path.name for path in paths if expected(path)]

    def drop_truncated_line(self, network: str) -> bool:
        """Remove the incomplete last line that a killed writer left; True if there was one."""
        path = self.path(network)
        data = path.read_bytes() if path.exists() else b""
        if not data or data.endswith(b"\n"):
            return False
        with path.open("r+b") as file:
            file.truncate(data.rfind(b"\n") + 1)
        return True


class _State(NamedTuple):
    """What changes with a file's content, its size being the same included."""

    bytes: int
    modified_ns: int
    file: int


def require_plausible(run: Run, network: Network, place: str) -> None:
    """Raise TableError for a run that cannot be one of this network; `place`: its file and line."""
    try:
        network.check(run.architecture)
    except ArchitectureError as error:
        raise TableError(
            f"{place}: {error}. Never edit a table: copy the file again from its source"
        ) from None
    together, dense = sum(layer.seconds for layer in run.layers), run.loudest_s
    if together > IMPLAUSIBLE * dense:
        raise TableError(
            f"{place}: its layers take {together:.3g} s, and the whole dense network {dense:.3g} "
            "s. Seconds are expected. Never edit a table: copy the file again from its source"
        )
    paired = run.pairs * (run.whole_s + run.dense_s)
    if paired > LONGER * run.measuring_s:
        raise TableError(
            f"{place}: its {run.pairs} pairs would take {paired:.3g} s, and all measuring took "
            f"{run.measuring_s:.3g} s. Seconds are expected. Never edit a table: copy the file "
            "again from its source"
        )


def _state_of(path: Path) -> _State | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return _State(found.st_size, found.st_mtime_ns, found.st_ino)


def repeats_path(folder: Path, network: str) -> Path:
    """Where `latprof repeat` leaves what it found."""
    return folder / f"{network}.repeats.json"


def _outputs(network: Network) -> int:
    return sum(layer.channels or 0 for layer in network.layers)


def _layer_told(layer: Layer | None) -> str:
    if layer is None:
        return "no more layers"
    width = f" with {layer.channels} channels" if layer.channels else ""
    return f"{layer.kind} {layer.name}{width}"
