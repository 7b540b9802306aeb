"""Filter ranking: which channels of a group stay. A ranking is a function Trace → scores."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from pruner.filters.magnitude import batch_norm_scale, l1_norm
from pruner.trace import Trace

Ranking = Callable[[Trace], dict[str, Tensor]]  # group → (width,), higher is kept longer

RANKINGS: dict[str, Ranking] = {"l1": l1_norm, "batch_norm": batch_norm_scale}
