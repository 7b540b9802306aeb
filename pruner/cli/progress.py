"""Progress on standard error, and what an interruption says."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

console = Console(stderr=True)
WHOLE = "compare"  # the step that all others are part of


@contextmanager
def interruptible(out: Path) -> Iterator[None]:
    """Ctrl-C says how to continue and ends with the shell's usual code."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"interrupted; the same command continues {out}", file=sys.stderr)
        raise typer.Exit(130) from None


class Stages:
    """Progress of a journey: one bar a step; a comparison's steps begin anew for every run."""

    def __init__(self, bar: Progress) -> None:
        self._bar, self._now = bar, ""
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, step: str, done: int, total: int, text: str) -> None:
        if step not in self._tasks:
            self._tasks[step] = self._bar.add_task(step, total=total, text=text)
        elif step not in (self._now, WHOLE):
            self._bar.reset(self._tasks[step], total=total, text=text)
        if step != self._now and self._now not in ("", WHOLE):
            ended = self._tasks[self._now]
            self._bar.update(ended, completed=self._bar.tasks[ended].total)
        self._now = step
        self._bar.update(self._tasks[step], completed=done, total=total, text=text)


def progress() -> Progress:
    """A bar with the time left, and what is being done."""
    return Progress(
        TextColumn("{task.description:10}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
        console=console,
    )
