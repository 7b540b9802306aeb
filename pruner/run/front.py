"""A front: the networks of a search that nothing faster surpasses, as a file has them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from lookup_tables.model.latency_model import LatencyModel
from lookup_tables.table.store import LatencyTable
from pruner import RunError
from pruner.run.folder import RunFolder
from pruner.run.settings import OF_FINISHING, WHERE, Settings
from pruner.search.log import read_log
from pruner.search.searcher import Scored, front_of

FORMAT = 1


def front(scored: Iterable[Scored], latency: LatencyModel, model: str, method: str) -> dict:
    """The content of front.json: accuracies are on held-out images, before fine-tuning."""
    network, dense_s = latency.network, latency.dense_s
    dense_macs = network.macs_of(network.dense)
    return {
        "format": FORMAT,
        "model": model,
        "method": method,
        "device": latency.device.name,
        "dense_ms": dense_s * 1e3,
        "points": [
            {
                "latency_ms": each.latency_s * 1e3,
                "speedup": dense_s / each.latency_s,
                "accuracy": each.accuracy,
                "macs_kept": network.macs_of(each.architecture) / dense_macs,
                "architecture": each.architecture.model_dump(exclude_defaults=True),
            }
            for each in front_of(scored)
        ],
    }


def fronts_in(paths: Sequence[Path]) -> dict[str, dict]:
    """The fronts of runs, by what they are called: a folder may hold several runs of one method.

    Runs of one method that differ in budget and seed alone are one front. Raises RunError for a
    folder without a search, for runs of one method that differ in more, and for fronts of
    different networks or devices.
    """
    runs = [folder for path in paths for folder in _runs_in(path)]
    together: dict[str, list[Path]] = {}
    for folder in runs:
        together.setdefault(_called(folder), []).append(folder)
    found = {name: _joined(folders) for name, folders in together.items()}
    for of in ("model", "device"):
        kinds = {name: front[of] for name, front in found.items()}
        if len({*kinds.values()}) > 1:
            told = ", ".join(f"{name} is of {kind}" for name, kind in kinds.items())
            raise RunError(f"fronts of one {of} only can be shown together: {told}")
    return found


def hypervolume(front: dict, least_accuracy: float = 0.0, fastest_ms: float = 0.0) -> float:
    """The share of the plane that a front dominates (Zitzler and Thiele 1998).

    The plane reaches from `fastest_ms` to the dense network's latency, and from the least accuracy
    to 1.
    """
    points, dense_ms = front["points"], front["dense_ms"]
    starts = [min(max(point["latency_ms"], fastest_ms), dense_ms) for point in points]
    area = sum(
        (end - start) * max(0.0, point["accuracy"] - least_accuracy)
        for start, end, point in zip(starts, [*starts[1:], dense_ms], points, strict=False)
    )
    return area / ((dense_ms - fastest_ms) * (1 - least_accuracy))


def _runs_in(path: Path) -> list[Path]:
    """The folder itself, or those inside that hold a search."""
    if (path / "settings.json").exists():
        found = [path]
    else:
        found = sorted(file.parent for file in path.glob("*/settings.json"))
    found = [folder for folder in found if (folder / "search.jsonl").exists()]
    if not found:
        raise RunError(
            f"{path} holds no search: no run in it has a search.jsonl. Give a run's folder, or a "
            "comparison's"
        )
    return found


def _called(folder: Path) -> str:
    """What a run's front is called: its method, with what was set of it."""
    settings = RunFolder.open(folder).settings
    flags = [f"--{each}" for each in ("depth", "density") if getattr(settings, each)]
    own = [f"{name}={value}" for name, value in settings.method_settings.items()]
    return " ".join([settings.method, *own, *flags])


def _joined(folders: Sequence[Path]) -> dict:
    """One front of several runs' logs."""
    first = RunFolder.open(folders[0])
    for folder in folders[1:]:
        _require_same_search(first, RunFolder.open(folder))
    table = LatencyTable.open(first.settings.table)
    network = table.load_network(first.origin()["priced_by"])
    scored = [
        Scored(row["architecture"], row["accuracy"], row["latency_s"])
        for folder in folders
        for row in read_log(folder / "search.jsonl")
    ]
    if not scored:
        raise RunError(f"{first.path}: its search has scored nothing yet; continue it first")
    latency = LatencyModel(network, table)
    return front(scored, latency, first.settings.model, first.settings.method)


def _require_same_search(one: RunFolder, other: RunFolder) -> None:
    """Raise RunError where two runs' scores do not belong into one front."""
    free = {"speedup", "latency_ms", "seed", *OF_FINISHING, *WHERE}
    differing = [
        name
        for name in Settings.model_fields
        if name not in free and getattr(one.settings, name) != getattr(other.settings, name)
    ]
    before, now = one.origin(), other.origin()
    differing += [name for name in ("table", "files_sha256") if before.get(name) != now.get(name)]
    if differing:
        raise RunError(
            f"{one.path} and {other.path} are runs of one method, but not of one search: "
            f"{', '.join(differing)} differ. Show one of them"
        )
