"""The rows of a table: what was planned, run and judged, one JSON object a line.

`FORMAT.md` has the format on one screen.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from lookup_tables.architecture import Architecture
from lookup_tables.errors import TableError
from lookup_tables.layer import LayerSpec

FORMAT = 3  # 2: without what disturbed rounds and networks would say; it is read too

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


def to_line(row: Row) -> bytes:
    """A row as its line of the file."""
    exclude = {"layers"} if isinstance(row, Run) else None
    data = row.model_dump_json(exclude=exclude, exclude_none=True)
    if isinstance(row, Run) and row.layers:
        layers = [LayerTime.model_dump_json(entry, exclude_defaults=True) for entry in row.layers]
        data = f'{data[:-1]},"layers":[{",".join(layers)}]}}'
    return data.encode() + b"\n"


def parse(path: Path, number: int, line: bytes) -> Row:
    """The row of a line; raises TableError naming file, line and field."""
    try:
        return _ROW.validate_json(line)
    except ValidationError as error:
        detail = error.errors()[0]
        found = detail.get("input")
        where = ".".join(str(part) for part in detail["loc"] if part not in ("plan", "run"))
        shown = f", found {found!r}" if isinstance(found, int | float | str) and where else ""
        if detail["type"] == "json_invalid":
            raise TableError(
                f"{path}, line {number}: not JSON; the file is damaged. Restore it from its "
                "source, or delete it and profile again"
            ) from None
        raise TableError(
            f"{path}, line {number}: {where}: {detail['msg']}{shown}. "
            "Never edit a table: restore the file, or delete it and profile again"
        ) from None


def truncated(path: Path, number: int) -> TableError:
    """What to raise for an incomplete last line."""
    return TableError(
        f"{path}, line {number}: the line is incomplete because its writer was killed. `latprof "
        f"profile --network {path.stem} --out {path.parent}` drops that line, keeps the lines "
        "before it and measures what is missing"
    )


def check_order(path: Path, rows: list[Row]) -> None:
    """Raise TableError unless a plan comes first, once, and no run twice."""
    if rows and not isinstance(rows[0], Plan):
        raise TableError(f"{path}, line 1: expected the plan, found a {rows[0].row} row")
    seen: dict[tuple, int] = {}
    for number, row in enumerate(rows, 1):
        if isinstance(row, Plan) and number > 1:
            raise TableError(
                f"{path}, line {number}: a second plan, as in files joined by hand. Restore the "
                "file; to join tables, use `latprof merge`"
            )
        if isinstance(row, Run):
            if row.key in seen:
                purpose, run, attempt = row.key
                raise TableError(
                    f"{path}, line {number}: {purpose} run {run}, attempt {attempt} is a "
                    f"duplicate of line {seen[row.key]}. Do not remove either by hand; restore "
                    "the file"
                )
            seen[row.key] = number
