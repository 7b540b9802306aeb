"""SearchLog: every candidate that was scored, one line each; it makes a search resumable.

A search that was interrupted starts again from its seed and finds its former answers in the log, so
it arrives where it stopped without data, and then goes on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lookup_tables.architecture import Architecture
from lookup_tables.model.latency_model import LatencyModel
from pruner import RunError
from pruner.search.searcher import Evaluator, Scored, Search, Searcher


@dataclass
class SearchLog:
    """Scores asked so far, one JSON line each: {"architecture", "accuracy", "latency_s"}."""

    path: Path
    evaluate: Evaluator
    latency: LatencyModel
    report: Callable[[SearchLog], None] = lambda log: None
    limit_s: float = np.inf  # a slower network is never the best
    scores: dict[Architecture, float] = field(default_factory=dict)  # in the order they were found
    asked: int = 0  # how often this process asked, known answers included
    best: tuple[float, Architecture] | None = None

    def __post_init__(self) -> None:
        _drop_incomplete_line(self.path)
        for row in read_log(self.path):
            self.scores[row["architecture"]] = row["accuracy"]

    def score(self, architecture: Architecture) -> float:
        """The logged accuracy of an architecture, or a new evaluation, logged."""
        (scored,) = self.score_all([architecture])
        return scored.accuracy

    def score_all(self, batch: Sequence[Architecture]) -> list[Scored]:
        """The same for several; each is on disk and reported before the next is waited for."""
        unknown = [each for each in dict.fromkeys(batch) if each not in self.scores]
        accuracies = self.evaluate(unknown) if unknown else iter(())
        return [self._scored(architecture, accuracies) for architecture in batch]

    def _scored(self, architecture: Architecture, accuracies: Iterator[float]) -> Scored:
        """One of a batch: known, or the next of the new ones."""
        latency_s = self.latency.latency_s(architecture)
        if architecture not in self.scores:
            start_s = time.perf_counter()
            accuracy = next(accuracies)
            scored = Scored(architecture, accuracy, latency_s)
            self._append(scored, time.perf_counter() - start_s)
            self.scores[architecture] = accuracy
        accuracy = self.scores[architecture]
        self.asked += 1
        is_better = self.best is None or accuracy > self.best[0]
        if is_better and latency_s <= self.limit_s * (1 + 1e-9):
            self.best = (accuracy, architecture)
        self.report(self)
        return Scored(architecture, accuracy, latency_s)

    def run(self, search: Search, at_once: int = 1) -> None:
        """Ask a search until it is over; `at_once`: how many candidates are scored together."""
        searcher = Searcher(search)
        try:
            while batch := searcher.ask(at_once):
                searcher.tell(self.score_all(batch))
        finally:
            searcher.close()

    def scored(self) -> list[Scored]:
        """Everything scored so far, in the order it was found."""
        latency_s = self.latency.latency_s
        return [Scored(each, accuracy, latency_s(each)) for each, accuracy in self.scores.items()]

    def ranked(self) -> list[tuple[float, Architecture]]:
        """Everything scored so far, best first; ties in the order they were found."""
        pairs = [(accuracy, architecture) for architecture, accuracy in self.scores.items()]
        return sorted(pairs, key=lambda pair: -pair[0])

    def _append(self, scored: Scored, seconds: float) -> None:
        row = {
            "architecture": scored.architecture.model_dump(exclude_defaults=True),
            "accuracy": scored.accuracy,
            "latency_s": scored.latency_s,
            "evaluation_s": seconds,
        }
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")


def read_log(path: Path) -> list[dict]:
    """A search log's rows, in the order they were scored; raises RunError naming the file."""
    return [_parse(path, line) for line in _complete_lines(path)]


def _parse(path: Path, line: str) -> dict:
    try:
        row = json.loads(line)
        return row | {
            "accuracy": float(row["accuracy"]),
            "latency_s": float(row["latency_s"]),
            "architecture": Architecture(**row["architecture"]),
        }
    except (ValueError, KeyError, TypeError):
        raise RunError(
            f"{path}: not a search log line: {line[:60]!r}. Delete the file to restart the search"
        ) from None


def _complete_lines(path: Path) -> list[str]:
    """The log's lines, without an incomplete last one, which a killed search left."""
    data = path.read_bytes() if path.exists() else b""
    return data[: data.rfind(b"\n") + 1].decode(errors="replace").splitlines()


def _drop_incomplete_line(path: Path) -> None:
    """What is appended next begins a line of its own."""
    size = path.stat().st_size if path.exists() else 0
    end = path.read_bytes().rfind(b"\n") + 1 if size else 0
    if end < size:
        with path.open("r+b") as file:
            file.truncate(end)
