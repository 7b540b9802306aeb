"""LatencyTable: create, append, load, verify. FORMAT.md has the format on one screen.

A table is a folder: `device.json` says what was measured, `<network>.jsonl` holds one network's
rows. Rows are only ever appended, one line each, so a killed writer loses at most one row.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from itertools import chain, count, zip_longest
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from lookup_tables.device import Device
from lookup_tables.errors import NetworkError, TableError
from lookup_tables.files import FORMER, PARTIAL, refuse_newer
from lookup_tables.layer import LayerSpec
from lookup_tables.manifest import expected, load_manifest, read_sealed, seal, unseal
from lookup_tables.network import Architecture, Layer, Network, network_names
from lookup_tables.noise import attempts_that_count, networks_that_count
from lookup_tables.prior import Prior

FORMAT = 3  # 2: without what disturbed rounds and networks would say; it is read too
IDENTITY = "device.json"
DATA = Path(__file__).parent / "data"
ELSEWHERE = Path("tables")  # where tables go if this package was installed and is no checkout

Finite = Annotated[float, Field(allow_inf_nan=False)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


Widths = Literal["menu", "any"]  # on the menu that was measured, or between its widths too


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Plan(_Row):
    """The first row: which network, and how its runs are chosen. A resumed profile keeps it."""

    row: Literal["plan"] = "plan"
    format: int = FORMAT
    network: str
    fingerprint: str
    levels: int
    seed: int
    menu: dict[str, tuple[int, ...]]  # group → the widths that were measured in all pairs


class LayerTime(_Row):
    """One layer's seconds inside a running network, and how many runtime nodes it became."""

    layer: LayerSpec
    seconds: Seconds
    nodes: Annotated[int, Field(ge=0)]  # 0: the runtime fused it into another layer


class Conditions(_Row):
    """What a GPU reported while a run was measured: medians over the samples that were kept.

    None of what the card cannot tell.
    """

    sm_clock_mhz: Seconds | None = None
    memory_clock_mhz: Seconds | None = None
    temperature_c: Finite | None = None
    power_w: Finite | None = None
    throttled: Annotated[int, Field(ge=0)]  # samples dropped because the card was throttled
    reasons: tuple[str, ...] = ()  # why, as NVML names it


class Session(_Row):
    """What one pair of sessions said: enough to judge a run anew without measuring it again.

    Medians over the rounds that counted, of all rounds where none did.
    """

    timed: Literal["whole", "layers"]  # the network as it is, or with the profiler on
    rounds: Annotated[int, Field(ge=0)]  # that counted
    of: Annotated[int, Field(ge=1)]
    dense_s: Seconds
    ratio: Seconds
    spread: Annotated[float, Field(ge=0, allow_inf_nan=False)]  # of ratios: interquartile range
    unselected_ratio: Seconds  # by all rounds


class Run(_Row):
    """One pruned network, run beside the dense one.

    `ratio` is the median over pairs of whole-network times (pruned / dense); `whole_s` and
    `dense_s` are the medians themselves. `purpose` says whether the run feeds the latency model
    or tests it.
    """

    row: Literal["run"] = "run"
    purpose: Literal["design", "unseen"]
    run: Annotated[int, Field(ge=0)]
    attempt: Annotated[int, Field(ge=0)] = 0
    architecture: Architecture
    dense_s: Seconds
    whole_s: Seconds
    ratio: Seconds
    pairs: Annotated[int, Field(ge=1)]
    measuring_s: Seconds  # wall-clock cost of this row
    peak_memory_bytes: Annotated[int, Field(ge=0)] | None = None  # of its process so far
    unselected_ratio: Seconds | None = None  # of all rounds, the disturbed ones too
    graph_ratio: Seconds | None = None  # CUDA only: both networks replayed as CUDA graphs
    conditions: Conditions | None = None  # CUDA only
    layers_dense_s: Seconds | None = None  # the dense network while the layers were timed
    sessions: tuple[Session, ...] = ()
    measured_by: str | None = None  # version and commit; recorded, never compared
    layers: tuple[LayerTime, ...] = ()

    @property
    def loudest_s(self) -> float:
        """The dense network's time in the more disturbed of the two series of rounds."""
        return max(self.dense_s, self.layers_dense_s or 0.0)

    @property
    def key(self) -> tuple:
        return (self.purpose, self.run, self.attempt)


class Validation(_Row):
    """How wrong the table is on architectures it never saw; the last one written counts.

    `widths` says which: on the menu that was measured, or any in the measured range.
    """

    row: Literal["validation"] = "validation"
    widths: Widths = "menu"
    architectures: int
    dropped: Annotated[int, Field(ge=0)] = 0  # unseen runs that never found a quiet moment
    rmspe: Finite  # root mean square of the relative errors
    dropped_rmspe: Finite | None = None  # what they would say
    unselected_rmspe: Finite | None = None  # what all rounds of all the networks would say
    null_ratio: Seconds | None = None  # the dense network beside itself then: 1 but for noise
    bias: Finite | None = None  # mean relative error
    within_5_percent: Finite  # share
    rank_correlation: Finite  # Spearman
    worst: Finite  # largest relative error
    flops_rmspe: Finite  # of the straight line in MACs, fitted to design runs
    flops_rank_correlation: Finite
    interval_90: Finite  # relative half-width that holds 90 % of unseen architectures
    coverage_90: Finite | None = None  # share that an interval held which was not made from them
    stopped: Literal["complete", "error", "budget"] | None = None  # what ended the profile
    measuring_s: Finite
    peak_memory_bytes: int
    measured_at: str  # ISO 8601, UTC
    tool_version: str


Row = Annotated[Plan | Run | Validation, Field(discriminator="row")]
_ROW = TypeAdapter(Row)


def home_of(device: str) -> Path:
    """The folder of a device's table unless another one is named."""
    is_checkout = (DATA.parents[1] / "pyproject.toml").is_file()
    return (DATA if is_checkout else ELSEWHERE) / device


def named_apart(device: Device) -> tuple[Device, dict[str, tuple[object, object]]]:
    """The device by a name whose home is free or holds its own rows already.

    A table of this very device keeps its name, whatever that is. Processors of one name differ: a
    virtual machine may hide their vector units, another runtime may run on them. Where NAME's table
    is of another one, the first thing that differs is added: `amd_epyc_1t_avx2`, then
    `amd_epyc_1t_avx2_2`. Also returns all that differs, as (here, there). Raises TableError for a
    table in the way that cannot be read.
    """
    if (known := _known_as(device)) is not None:
        return device.model_copy(update={"name": known}), {}
    taken = _differences_at(home_of(device.name), device)
    if not taken:
        return device, {}
    here = str(next(iter(taken.values()))[0]).lower()
    told = f"{device.name}_{re.sub('[^a-z0-9.]+', '-', here).strip('-')}"
    names = chain([told], (f"{told}_{number}" for number in count(2)))
    free = next(name for name in names if not _differences_at(home_of(name), device))
    return device.model_copy(update={"name": free}), taken


def _known_as(device: Device) -> str | None:
    """The name of a table of this very device: its own home, or one that lies beside it."""
    home = home_of(device.name)
    beside = sorted(home.parent.glob(f"*/{IDENTITY}"))
    for identity in sorted(beside, key=lambda path: path.parent != home):  # its own home first
        if identity.parent.suffix in (PARTIAL, FORMER):  # a pull's, to be finished or undone
            continue
        try:
            found = Device.load(identity)
        except TableError:
            continue
        if found.kind == device.kind and not device.differences(found):
            return identity.parent.name
    return None


def _differences_at(folder: Path, device: Device) -> dict[str, tuple[object, object]]:
    if not expected(folder / IDENTITY):
        return {}
    return device.differences(LatencyTable.open(folder).device)


class LatencyTable:
    """The rows of one device. Open one with `open` or `create`."""

    def __init__(self, folder: Path, device: Device) -> None:
        self.folder, self.device = folder, device
        self._read: dict[str, tuple[_State, list[Row]]] = {}  # network → its file then, its rows

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
                f"{folder} holds rows, but no {IDENTITY}: it was copied incompletely, and nobody "
                "knows which device they are of. Copy it again, or choose another --out"
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
            raise TableError(f"{path} is of another network called {network.name}")
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
        return min(found, key=lambda known: (self.validation(known.name) is None, _outputs(known)))

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
            traced = "" if file == network else ", the file that `pruner trace` writes"
            raise TableError(
                f"{path}: this table holds no network {network!r} (it holds: {known}). Measure it "
                f"on {self.device.name} with: latprof profile --network {file} --out "
                f"{self.folder}{traced}"
            ) from None
        lines = data.splitlines()
        if data and not data.endswith(b"\n"):
            raise _truncated(path, len(lines))
        if not lines:
            raise _truncated(path, 1)
        refuse_newer(path, lines[0], FORMAT, TableError)
        rows = [_parse(path, number, line) for number, line in enumerate(lines, 1)]
        _check_order(path, rows)
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
        return self.rows(network)[0]

    def runs(self, network: Network, purpose: str | None = None) -> list[Run]:
        """All runs of a network; raises TableError if the table is of another network."""
        self.require_network(network)
        rows = self.rows(network.name)
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

    def require_network(self, network: Network) -> None:
        """Raise TableError unless the table's rows are of this very network."""
        plan = self.plan(network.name)
        if plan is None:
            self.rows(network.name)  # raises: no such network
        elif plan.fingerprint != network.fingerprint:
            raise TableError(
                f"{self.path(network.name)} was measured on another network called "
                f"{network.name}: {self._difference(network)}. A table holds for one network at "
                "one input size: trace yours under another name "
                "(pruner trace) and profile it on the table's device, or use the network as it "
                "was measured"
            )

    def _difference(self, network: Network) -> str:
        """In what the network that was measured differs from another one of its name, in words."""
        try:
            known = self.load_network(network.name)
        except NetworkError:
            return "its layers are others"
        if known.input_shape != network.input_shape:
            sizes = ("×".join(map(str, n.input_shape)) for n in (known, network))
            return "{} images there, {} here".format(*sizes)
        for before, now in zip_longest(known.layers, network.layers):
            if before != now:
                return f"{_layer_told(before)} there, {_layer_told(now)} here"
        return "its blocks are others"

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
                file.write(_to_line(row))
                file.flush()
                os.fsync(file.fileno())
        if is_known:
            self._read[network] = (_state_of(path), [*known, *rows])

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


def _to_line(row: Row) -> bytes:
    exclude = {"layers"} if isinstance(row, Run) else None
    data = row.model_dump_json(exclude=exclude, exclude_none=True)
    if isinstance(row, Run) and row.layers:
        layers = [LayerTime.model_dump_json(entry, exclude_defaults=True) for entry in row.layers]
        data = f'{data[:-1]},"layers":[{",".join(layers)}]}}'
    return data.encode() + b"\n"


def _parse(path: Path, number: int, line: bytes) -> Row:
    try:
        return _ROW.validate_json(line)
    except ValidationError as error:
        detail = error.errors()[0]
        found = detail.get("input")
        where = ".".join(str(part) for part in detail["loc"] if part not in ("plan", "run"))
        shown = f", found {found!r}" if isinstance(found, int | float | str) and where else ""
        if detail["type"] == "json_invalid":
            raise TableError(
                f"{path}, line {number}: no JSON; the file is damaged. Restore it from where it "
                "came, or delete it and profile again"
            ) from None
        raise TableError(
            f"{path}, line {number}: {where}: {detail['msg']}{shown}. "
            "Never edit a table: restore the file, or delete it and profile again"
        ) from None


def _layer_told(layer: Layer | None) -> str:
    if layer is None:
        return "no more layers"
    width = f" with {layer.channels} channels" if layer.channels else ""
    return f"{layer.kind} {layer.name}{width}"


def _truncated(path: Path, number: int) -> TableError:
    return TableError(
        f"{path}, line {number}: the line is incomplete: its writer was killed. "
        f"`latprof profile --network {path.stem} --out {path.parent}` drops that line "
        "and measures what is missing; the lines before it are kept"
    )


def _check_order(path: Path, rows: list[Row]) -> None:
    if rows and not isinstance(rows[0], Plan):
        raise TableError(f"{path}, line 1: expected the plan, found a {rows[0].row} row")
    seen: dict[tuple, int] = {}
    for number, row in enumerate(rows, 1):
        if isinstance(row, Plan) and number > 1:
            raise TableError(f"{path}, line {number}: a second plan; was the file joined by hand?")
        if isinstance(row, Run):
            if row.key in seen:
                purpose, run, attempt = row.key
                raise TableError(
                    f"{path}, line {number}: {purpose} run {run}, attempt {attempt} is a duplicate "
                    f"of line {seen[row.key]}. Remove neither by hand: restore the file"
                )
            seen[row.key] = number


def undisturbed(runs: list[Run]) -> list[Run]:
    """The settled runs that met a quiet moment: at least three quarters of them.

    What never did is dropped, as a GPU's throttled samples are.
    """
    if not runs:
        return runs
    corners = {("design", 0), ("design", 1)}  # the dense and the narrowest: they span the table
    kept = networks_that_count([run.dense_s for run in runs], [run.loudest_s for run in runs])
    return [
        run for run, k in zip(runs, kept, strict=True) if k or (run.purpose, run.run) in corners
    ]


def settle(attempts: list[Run]) -> Run:
    """The median of one architecture's undisturbed attempts."""
    counted = attempts_that_count([attempt.loudest_s for attempt in attempts])
    kept = [attempt for attempt, counts in zip(attempts, counted, strict=True) if counts]
    first = kept[0]
    if len(kept) == 1:
        return first
    dense_s = float(np.median([attempt.dense_s for attempt in kept]))
    ratio = float(np.median([attempt.ratio for attempt in kept]))
    shares = [[entry.seconds / a.dense_s for entry in a.layers] for a in kept]
    layers = [
        entry.model_copy(update={"seconds": float(share) * dense_s})
        for entry, share in zip(first.layers, np.median(shares, axis=0), strict=True)
    ]
    return first.model_copy(
        update={
            "dense_s": dense_s,
            "ratio": ratio,
            "whole_s": ratio * dense_s,
            "layers": tuple(layers),
        }
    )
