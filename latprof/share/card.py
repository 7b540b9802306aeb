"""A table's card: what was measured, on what, how wrong it is; readable on any git host."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from latprof import OptionError
from lookup_tables.model.latency_model import DENSITIES, LatencyModel
from lookup_tables.model.staircase import Staircase
from lookup_tables.network import Network
from lookup_tables.storage.files import write_whole
from lookup_tables.table.repeats import Repeatability
from lookup_tables.table.rows import Run, Validation
from lookup_tables.table.store import LatencyTable, repeats_path

CARD = "README.md"


def write_card(table: LatencyTable, pictures: bool = True) -> Path:
    """Write README.md, and a picture for every network, into the table's folder."""
    finished = [table.load_network(name) for name in table.networks() if table.validation(name)]
    for network in finished if pictures else ():
        drawing()(network, table, picture_path(table.folder, network.name))
    path = table.folder / CARD
    write_whole(path, "\n".join(_card(table, finished)) + "\n")
    return path


def drawing() -> Callable[[Network, LatencyTable, Path], None]:
    """`plot`; raises OptionError without matplotlib, which a profiling target can do without."""
    try:
        from latprof.share.plot import plot
    except ModuleNotFoundError as error:
        raise OptionError(
            f"{error}. Pictures need: pip install 'latprof-pruner[share]'. To write the card "
            "without them, pass --no-pictures"
        ) from None
    return plot


def picture_path(folder: Path, network: str) -> Path:
    """Where a network's staircases are drawn."""
    return folder / f"{network}.svg"


def _card(table: LatencyTable, networks: Sequence[Network]) -> Iterator[str]:
    device = table.device
    yield f"# Latency table: {device.name}"
    yield ""
    yield (
        f"{device.processor}, {device.runtime} {device.runtime_version}, {device.precision}, batch "
        f"{device.batch}, {device.threads} thread{'s' * (device.threads > 1)}. Seconds for every "
        "layer, at every width worth choosing, timed inside running networks; written by "
        "`latprof card`."
    )
    yield from _use(table, networks)
    yield from _errors(table, networks)
    yield from _repeatability(table, networks)
    yield from _staircases(table, networks)
    if table.device.block:
        yield from _densities(table, networks)
    yield from _device(table)
    yield from _method(table, networks)


def _use(table: LatencyTable, networks: Sequence[Network]) -> Iterator[str]:
    if networks:
        yield from ("", "```")
        first = networks[0].name
        file = table.network_path(first)
        network = f"TABLE/{file.name}" if file.exists() else first
        yield f"latprof predict --table TABLE --network {network} --architecture a.json"
        model = f"FILE.py:{first}" if file.exists() else first
        yield f"pruner prune --table TABLE --model {model} --speedup 2 …"
        yield "```"


def _errors(table: LatencyTable, networks: Sequence[Network]) -> Iterator[str]:
    what = "widths and densities" if table.device.block else "widths"
    yield from ("", "## How wrong it is", "")
    yield (
        f"Against pruned networks that were measured but not used: on the menu of {what}, and at "
        f"any {what}. Beside the straight line in multiply-accumulates."
    )
    yield ""
    yield from _head(
        "network", "dense", "widths", "error (RMSPE)", "MACs line", "within ±5 %",
        "rank correlation", "worst", "90 % interval", "networks", "measured",
    )  # fmt: skip
    for network in networks:
        dense_ms = LatencyModel(network, table).dense_s * 1e3
        for widths in ("menu", "any"):
            judged = table.validation(network.name, widths)
            if judged:
                yield _row([network.name, f"{dense_ms:.3g} ms", *_judged(widths, judged)])


def _judged(widths: str, judged: Validation) -> list[str]:
    return [
        "on the menu" if widths == "menu" else "any",
        f"**{judged.rmspe:.1%}**",
        f"{judged.flops_rmspe:.1%}",
        f"{judged.within_5_percent:.0%}",
        f"{judged.rank_correlation:.3f}",
        f"{judged.worst:.1%}",
        f"±{judged.interval_90:.1%}",
        f"{judged.architectures}" + (f" ({judged.dropped} dropped)" if judged.dropped else ""),
        judged.measured_at[:10],
    ]


def _repeatability(table: LatencyTable, networks: Sequence[Network]) -> Iterator[str]:
    paths = (repeats_path(table.folder, network.name) for network in networks)
    found = [repeats for path in paths if (repeats := Repeatability.load(path))]
    yield from ("", "## How well it repeats", "")
    if not found:
        yield "Not measured yet: `latprof repeat` does."
        return
    yield "Rebuilt in fresh processes: spreads of predicted speedups, and of the entries."
    yield ""
    yield from _head("network", "tables", "predictions, median", "95 %", "entries, median", "95 %")
    for repeats in found:
        both = (repeats.predictions, repeats.entries)
        spreads = [f"{x:.2%}" for spread in both for x in (spread.median_spread, spread.p95_spread)]
        yield _row([repeats.network, str(repeats.tables), *spreads])


def _staircases(table: LatencyTable, networks: Sequence[Network]) -> Iterator[str]:
    if networks:
        yield from ("", "## Its staircases", "")
    for network in networks:
        stairs = Staircase(LatencyModel(network, table))
        taken = ", ".join(
            f"{kind} layers in blocks of {step.block}, aligned to {step.alignment}"
            for kind, step in stairs.model.steps.items()
            if step.alignment > 1
        )
        yield f"**{network.name}**: {taken or 'no steps found'}."
        yield ""
        if picture_path(table.folder, network.name).exists():
            text = f"{network.name}: time over width, and predicted against measured"
            yield f"![{text}]({network.name}.svg)"
            yield ""


def _densities(table: LatencyTable, networks: Sequence[Network]) -> Iterator[str]:
    yield from ("## What leaving out weights is worth", "")
    yield (
        "Speedups over the dense network without kernels, with dense widths and one density in "
        "all layers that may be sparse; and in how many of those a lower density saves more than "
        "noise."
    )
    yield ""
    yield from _head("network", *(f"{density:g}" for density in reversed(DENSITIES)), "it pays in")
    for network in networks:
        stairs = Staircase(LatencyModel(network, table))
        over = [stairs.model.dense_s / seconds for _, seconds in reversed(stairs.over_density())]
        pays = f"{len(stairs.densities())} of {len(stairs.model.sparse_layers)} layers"
        yield _row([network.name, *(f"{each:.2f}×" for each in over), pays])
    yield ""


def _device(table: LatencyTable) -> Iterator[str]:
    yield from ("## Device", "")
    yield from _head("what", "value")
    facts = table.device.model_dump(exclude_none=True, exclude={"format"})
    for name, value in facts.items():
        if isinstance(value, dict):
            for key, one in value.items():
                yield _row([f"{name}: {key}", str(one)])
        else:
            yield _row([name, str(value)])


def _method(table: LatencyTable, networks: Sequence[Network]) -> Iterator[str]:
    yield from ("", "## How it was measured", "")
    yield (
        "Whole pruned networks run beside the dense one, alternating run by run; every layer is "
        "timed inside them, and their sum calibrated on whole-network times (method "
        f"{table.device.method}). Times are ratios to the dense network of the same moment."
    )
    yield ""
    yield from _head("network", "designed", "unseen", "repeated", "pairs each", "time", "memory")
    for network in networks:
        runs = table.runs(network)
        judged = table.validation(network.name)
        assert judged is not None, "a card lists finished networks"
        counts = [str(len({r.run for r in runs if r.purpose == p})) for p in ("design", "unseen")]
        yield _row([
            network.name, *counts, str(sum(run.attempt > 0 for run in runs)), _pairs(runs),
            f"{judged.measuring_s:.0f} s", f"{judged.peak_memory_bytes / 2**20:.0f} MiB",
        ])  # fmt: skip


def _pairs(runs: Sequence[Run]) -> str:
    counts = sorted(run.pairs for run in runs)
    return f"{counts[0]} … {counts[-1]}"


def _head(*columns: str) -> Iterator[str]:
    yield _row(columns)
    yield _row(["---"] * len(columns))


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '¦') for cell in cells)} |"
