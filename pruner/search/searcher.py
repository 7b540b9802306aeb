"""Searchers: asked for candidates, told their scores.

A method is a generator: it yields a batch of architectures and receives their scores, in that
order. `Searcher` turns it into `ask` and `tell`, so that whoever drives a search decides where its
candidates are scored, and how many at once. A library's loop that calls for scores by itself
becomes such a generator by `asked_for_scores`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from typing import Protocol

from lookup_tables.architecture import Architecture


@dataclass(frozen=True, slots=True)
class Scored:
    """A candidate and what came out: accuracy on held-out training images, predicted seconds."""

    architecture: Architecture
    accuracy: float
    latency_s: float


Search = Generator[list[Architecture], list[Scored], None]
Score = Callable[[Architecture], float]


class Evaluator(Protocol):
    """Scores a batch: accuracies in its order, each as soon as it is known."""

    def __call__(self, batch: Sequence[Architecture]) -> Iterator[float]: ...


class Searcher:
    """A search that is asked and told; what it proposes follows from what it was told alone."""

    def __init__(self, search: Search) -> None:
        self._search = search
        self._batch: list[Architecture] = []
        self._asked = 0  # of the batch
        self._told: list[Scored] = []
        self._is_over = False
        self._advance(None)

    def ask(self, most: int = 1) -> list[Architecture]:
        """Up to so many candidates; none when the search is over, or before others are told."""
        found = self._batch[self._asked : self._asked + most]
        self._asked += len(found)
        return found

    def tell(self, scored: Iterable[Scored]) -> None:
        """The scores of what was asked, in that order; some of them or all."""
        self._told += scored
        if len(self._told) == len(self._batch) and not self._is_over:
            self._advance(self._told)

    @property
    def is_over(self) -> bool:
        return self._is_over

    def close(self) -> None:
        """End a search before its end."""
        self._search.close()

    def _advance(self, told: list[Scored] | None) -> None:
        try:
            self._batch = next(self._search) if told is None else self._search.send(told)
        except StopIteration:
            self._batch, self._is_over = [], True
        self._asked, self._told = 0, []


def evaluated_here(score: Score) -> Evaluator:
    """An evaluator that scores one candidate after the other in this process."""
    return lambda batch: (score(architecture) for architecture in batch)


def front_of(scored: Iterable[Scored]) -> list[Scored]:
    """Those that nothing faster, or as fast, surpasses: the fastest first."""
    answer: list[Scored] = []
    for each in sorted(scored, key=lambda s: (s.latency_s, -s.accuracy)):
        if not answer or each.accuracy > answer[-1].accuracy:
            answer.append(each)
    return answer


class _Abandoned(BaseException):
    """Ends a search's thread when nobody asks it any more."""


def asked_for_scores(search: Callable[[Score], None]) -> Search:
    """A function that calls for its scores, one at a time, as a search that is asked.

    It runs in a thread of its own, which waits while a candidate is scored: only one of the two
    runs at any time, so what it draws at random does not depend on timing. What it raises is raised
    where the search is asked.
    """
    candidates: SimpleQueue[Architecture | BaseException | None] = SimpleQueue()
    answers: SimpleQueue[float | None] = SimpleQueue()

    def score(architecture: Architecture) -> float:
        candidates.put(architecture)
        accuracy = answers.get()
        if accuracy is None:
            raise _Abandoned
        return accuracy

    def run() -> None:
        try:
            search(score)
        except _Abandoned:
            return
        except BaseException as error:
            candidates.put(error)
        else:
            candidates.put(None)

    thread = Thread(target=run, daemon=True)
    thread.start()
    try:
        while (candidate := candidates.get()) is not None:
            if isinstance(candidate, BaseException):
                raise candidate
            (scored,) = yield [candidate]
            answers.put(scored.accuracy)
    finally:
        answers.put(None)  # for a search that is not over: its next score ends it
        thread.join()
