"""Criterion: which channels of a group stay, with settings of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from lookup_tables.architecture import Architecture
from lookup_tables.registry import OwnSettings
from pruner.data.images import Images
from pruner.graph.surgery import Kept
from pruner.graph.trace import Trace
from pruner.train.tasks.base import VisionTask

Report = Callable[[int, int, str], None]  # step, of how many, what now


class Ranking(Protocol):
    """Scores channels: group → (width,), the higher the longer it stays."""

    def __call__(self, trace: Trace, images: Images, task: VisionTask) -> dict[str, Tensor]: ...


class Selection(Protocol):
    """Trains an incomplete network; the trace with its weights, and the channels that stay."""

    def __call__(
        self,
        trace: Trace,
        architecture: Architecture,
        images: Images,
        task: VisionTask,
        settings: Any,
        seed: int,
        report: Report,
    ) -> tuple[Trace, Kept]: ...


@dataclass(frozen=True)
class Criterion:
    """A pruning criterion. Candidates are cut by `rank`; the network that was found by `select`,
    where the criterion decides while it trains."""

    name: str
    summary: str  # one line of --help
    rank: Ranking
    settings: type[OwnSettings] = OwnSettings
    select: Selection | None = None
