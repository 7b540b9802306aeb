"""Searching once for every budget, and finishing the networks that are picked of what was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lookup_tables.errors import BudgetError
from lookup_tables.storage.files import only_writer
from pruner import RunError
from pruner.run.folder import RunFolder, require_same_origin
from pruner.run.journey import Journey, Report
from pruner.run.prune import choose, explore, origin_of, prune, require_possible, write_front
from pruner.run.settings import OF_SEARCH, Settings, usual
from pruner.search.log import SearchLog, read_log
from pruner.search.searcher import evaluated_here


def search_front(settings: Settings, out: str | Path, report: Report = lambda *_: None) -> dict:
    """Run or continue a search, and finish nothing; returns the content of front.json.

    Raises what `prune` raises.
    """
    journey = Journey(settings, report)
    require_possible(journey)
    run = RunFolder.begin(out, settings, origin_of(journey))
    with only_writer(run.path), run.timed("search"):
        return write_front(journey, run, explore(journey, run))


def pick(
    path: str | Path,
    speedups: Sequence[float],
    latencies_ms: Sequence[float],
    out: str | Path,
    changes: Mapping[str, Any],
    report: Report = lambda *_: None,
) -> list[dict]:
    """Finish the best network of a search within each budget; the content of their result.json.

    Nothing is searched anew: of what was scored the few best within the budget are scored again on
    all held-out images, and the best of them is fine-tuned, exported, checked and timed, in a
    folder of its own. `changes`: settings of OF_FINISHING and WHERE that are not the search's.
    Raises RunError where `path` holds no search, BudgetError where nothing of it meets a budget,
    and what `prune` raises.
    """
    searched = RunFolder.open(path)
    if not searched.search_log.exists():
        raise RunError(f"{path} holds no search: search.jsonl is missing")
    asked = [{"speedup": each, "latency_ms": None} for each in speedups]
    asked += [{"speedup": None, "latency_ms": each} for each in latencies_ms]
    wanted = [searched.settings.varied(**changes, **budget) for budget in asked]
    journeys = [Journey(settings, report) for settings in wanted]
    for journey in journeys:  # before anything is trained
        journey.data = journeys[0].data
        require_same_origin(searched.path, searched.origin(), origin_of(journey), journey.settings)
        _require_within(journey, searched)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    results = []
    for number, journey in enumerate(journeys):
        name = _called(journey.settings)
        report("pick", number, len(journeys), name)
        chosen = out / f"{name}.json"
        if not chosen.exists():
            with only_writer(searched.path):
                choose(journey, _log(journey, searched)).save(chosen)
        results.append(
            prune(_finishing(journey.settings, chosen), out / name, report, journey.data)
        )
    return results


def _log(journey: Journey, searched: RunFolder) -> SearchLog:
    """What was scored; scoring more would be another search."""
    return SearchLog(searched.search_log, evaluated_here(journey.score), journey.latency)


def _require_within(journey: Journey, searched: RunFolder) -> None:
    """Raise BudgetError where nothing that was scored meets the budget."""
    rows = read_log(searched.search_log)
    fastest_s = min((row["latency_s"] for row in rows), default=float("inf"))
    if fastest_s <= journey.limit_s * (1 + 1e-9):
        return
    dense_s = journey.latency.dense_s
    found = f"its fastest network takes {fastest_s * 1e3:.3f} ms ({dense_s / fastest_s:.2f}×)"
    raise BudgetError(
        f"{searched.path}: nothing of this search meets {journey.budget_s * 1e3:.3f} ms "
        f"({dense_s / journey.budget_s:.2f}×); {found if rows else 'it has scored nothing yet'}. "
        "Ask for less, or search with a smaller budget: pruner search --speedup"
    )


def _finishing(settings: Settings, architecture: Path) -> Settings:
    """The same run, its network given instead of searched."""
    changes = {name: usual(name) for name in OF_SEARCH}
    return settings.varied(**changes, architecture=str(architecture))


def _called(settings: Settings) -> str:
    """A budget, as a folder's name."""
    if settings.speedup is not None:
        return f"{settings.speedup:g}x"
    return f"{settings.latency_ms:g}ms"
