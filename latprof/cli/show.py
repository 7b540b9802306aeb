"""What the commands print for people: the table's error, an explanation, a difference."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from latprof.profile.journey import Goal, ProfileResult
from lookup_tables.architecture import Architecture
from lookup_tables.layer import WEIGHTED
from lookup_tables.model.diff import TableDifference
from lookup_tables.model.latency_model import LatencyModel
from lookup_tables.model.staircase import Advice, LayerReport, Staircase
from lookup_tables.table.rows import Validation

DOUBTFUL = 0.05  # RMSPE of a table that better not be trusted
BINDINGS = {
    "launch": (
        "bound by launch: they take hardly longer than the cheapest layer, so fewer channels "
        "cannot help"
    ),
    "memory": "bound by memory: they move bytes as fast as the device can",
    "compute": "bound by compute",
    "neither": (
        "slow for their shape: they neither compute nor move bytes near the best seen here; other "
        "widths may suit the device better"
    ),
}


def why_it_stopped(result: ProfileResult, goal: Goal) -> str:
    """What ended a profile, and the errors it reached."""
    reached = (
        f"reached {result.menu.rmspe:.1%} at candidate widths and {result.any.rmspe:.1%} at any "
        "width"
    )
    match result.stopped:
        case "error" if goal.error is not None:
            return f"stopped at the error asked for: {reached} ({goal.error:.1%} asked)"
        case "budget":
            return (
                f"stopped by the budget of {goal.budget_s:.0f} s: {reached}; to continue, run the "
                "same command with a larger --budget"
            )
        case _:
            return f"the whole design is measured: {reached}"


def print_validations(network: str, folder: Path, results: list[Validation], json_: bool) -> None:
    """A table's error as a table, or as JSON for programs."""
    if json_:
        print(json.dumps([result.model_dump(exclude_none=True) for result in results], indent=1))
        return
    table = Table(title=f"{network} on {folder.name}: error on held-out architectures")
    headings = ("widths", "networks", "RMSPE", "within ±5 %", "rank correlation", "worst", "90 %")
    for heading in headings:
        table.add_column(heading, justify="right")
    for result in results:
        table.add_row(
            "candidate" if result.widths == "menu" else "any",
            f"{result.architectures}",
            f"{result.rmspe:.2%}",
            f"{result.within_5_percent:.0%}",
            f"{result.rank_correlation:.3f}",
            f"{result.worst:.1%}",
            f"±{result.interval_90:.1%}",
        )
        table.add_row(
            "FLOPs line", "", f"{result.flops_rmspe:.2%}", "",
            f"{result.flops_rank_correlation:.3f}", "", "",
        )  # fmt: skip
    Console().print(table)
    last = results[-1]
    print(
        f"{last.measuring_s:.0f} s of measuring, {last.peak_memory_bytes / 2**20:.0f} MiB; "
        f"table: {folder}"
    )
    print(_what_met_no_quiet_moment(results))
    if max(result.rmspe for result in results) > DOUBTFUL:
        print(
            "This error is larger than usual; the machine may have been busy. When it is idle, "
            "profile again into another --out"
        )


def _what_met_no_quiet_moment(results: list[Validation]) -> str:
    """How many networks met a quiet moment, and what the others and all rounds would say."""
    kept = sum(result.architectures for result in results)
    dropped = sum(result.dropped for result in results)
    text = f"{kept} of {kept + dropped} networks were measured undisturbed"
    others = [f"{r.dropped_rmspe:.1%} ({_widths(r)})" for r in results if r.dropped_rmspe]
    if others:
        text += f"; error on the others: {', '.join(others)}"
    unselected = [r for r in results if r.unselected_rmspe is not None]
    if unselected:
        said = ", ".join(f"{r.unselected_rmspe:.1%} ({_widths(r)})" for r in unselected)
        text += f"; error with all rounds of all networks: {said}"
    if results[-1].null_ratio is not None:
        text += f". The dense network against itself: {results[-1].null_ratio:.3f}"
    return text


def _widths(result: Validation) -> str:
    return "menu" if result.widths == "menu" else "any width"


def print_explanation(
    model: LatencyModel,
    architecture: Architecture,
    layers: list[LayerReport],
    wider: list[Advice],
    narrower: list[Advice],
    top: int,
) -> None:
    """An architecture's time, where it is lost against its MACs, and widths that would help."""
    network = model.network
    now_s = model.latency_s(architecture)
    share = network.macs_of(architecture) / network.macs_of(network.dense)
    print(
        f"{now_s * 1e3:.3f} ms, {model.dense_s / now_s:.2f}× of dense, with {share:.0%} of its "
        f"MACs ({1 / share:.2f}× fewer)"
    )
    lost = sorted(layers, key=lambda layer: -layer.lost_s)[:top]
    print("\nlayers that save less time than MACs:")
    for layer in lost:
        if layer.lost_s <= 0 or layer.dense_s is None:
            continue
        print(
            f"  {layer.name:24} {layer.seconds * 1e6:7.1f} µs of {layer.dense_s * 1e6:7.1f} with "
            f"{layer.macs_share:4.0%} of the MACs: {layer.lost_s * 1e6:6.1f} µs lost; "
            f"{BINDINGS[layer.binding].partition(':')[0]}{_step_of(model, layer)}"
        )
    for binding in ("launch", "memory", "neither"):
        bound = [layer for layer in layers if layer.binding == binding]
        if bound:
            time = sum(layer.seconds for layer in bound) / now_s
            print(f"\n{len(bound)} layers ({time:.0%} of the time) are {BINDINGS[binding]}")
    _print_densities(model)
    _print_advice("wider and no slower", wider)
    _print_advice("narrower and faster (the next right edge below)", narrower)
    if not wider and not narrower:
        print(
            "\nchanging one group's width does not help; remove a block, or narrow several groups"
        )


def _print_densities(model: LatencyModel) -> None:
    """In which layers leaving out weights saves nothing; nothing of a table without densities."""
    if not model.sparse_layers:
        return
    offered = Staircase(model).densities()
    idle = [name for name in model.sparse_layers if name not in offered]
    others = sum(layer.kind in WEIGHTED for layer in model.network.layers) - len(
        model.sparse_layers
    )
    print(
        f"\nleaving out weights saves time in {len(offered)} of {len(model.sparse_layers)} layers; "
        f"{others} more (depthwise, linear, the image's) keep all of theirs"
    )
    if idle:
        shown = ", ".join(idle[:6]) + (", …" if len(idle) > 6 else "")
        print(f"  it saves too little in: {shown}")


def _print_advice(title: str, advices: list[Advice]) -> None:
    if advices:
        print(f"\n{title}:")
    for advice in advices:
        print(
            f"  {advice.group:24} {advice.width} → {advice.instead}: "
            f"{'saves' if advice.saves_s >= 0 else 'costs'} {abs(advice.saves_s) * 1e6:.1f} µs"
        )


def _step_of(model: LatencyModel, layer: LayerReport) -> str:
    """How the device takes this layer's widths, if that may be the reason."""
    step = model.steps.get(layer.spec.kind)
    if step is None or step.alignment == 1:
        return ""
    odd = [
        f"{width} {name} channels are not a multiple of {step.alignment}"
        for name, width in (("input", layer.spec.in_channels), ("output", layer.spec.out_channels))
        if width >= step.block and width % step.alignment
    ]
    return f"; {' and '.join(odd)}" if odd else ""


def print_difference(network: str, difference: TableDifference, top: int) -> None:
    """What changed between two tables, the largest changes first."""
    changed = sorted(difference.changed, key=lambda entry: -abs(entry.ratio - 1))
    print(
        f"{network}: {len(changed)} of {len(difference.entries)} entries differ beyond noise; "
        f"dense network {difference.dense_ratio:.3f}×"
        f"{' (differs)' if difference.whole_differs else ''}; predicted speedups change by "
        f"{difference.median_change:.2%} in the median, {difference.worst_change:.1%} at most"
    )
    for field, (a, b) in difference.device.items():
        print(f"  device {field}: {a} → {b}")
    if difference.only_first or difference.only_second:
        print(
            f"  only in the first: {difference.only_first} entries, "
            f"only in the second: {difference.only_second}"
        )
    for entry in changed[:top]:
        print(
            f"  {entry.first_s * 1e6:8.1f} → {entry.second_s * 1e6:8.1f} µs  share "
            f"{entry.ratio:.2f}× (noise ±{entry.noise:.1%})  {entry.spec}"
        )
    if len(changed) > top:
        print(f"  … and {len(changed) - top} more")


def difference_as_json(difference: TableDifference) -> dict:
    """The same for programs; of the entries only those that differ."""
    return {
        "entries": len(difference.entries),
        "changed": [asdict(entry) | {"spec": entry.spec.to_json()} for entry in difference.changed],
        "only_first": difference.only_first,
        "only_second": difference.only_second,
        "dense_ratio": difference.dense_ratio,
        "median_change": difference.median_change,
        "worst_change": difference.worst_change,
        "device": {field: list(pair) for field, pair in difference.device.items()},
    }
