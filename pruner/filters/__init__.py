"""Filter ranking: which channels of a group stay.

A ranking is a function of the traced model and of training images; those that read the weights
alone ignore the images. Higher scores stay longer. `dynamic` ranks while it trains a masked
network, so it belongs to fine-tuning (`pruner/filters/dynamic.py`).
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from pruner.data import Images
from pruner.filters.magnitude import batch_norm_scale, l1_norm, l2_norm
from pruner.filters.median import geometric_median
from pruner.filters.taylor import taylor
from pruner.trace import Trace

Ranking = Callable[[Trace, Images], dict[str, Tensor]]  # group → (width,)

DYNAMIC = "dynamic"
RANKINGS: dict[str, Ranking] = {
    "l1": l1_norm,
    "l2": l2_norm,
    "fpgm": geometric_median,
    "batch_norm": batch_norm_scale,
    "taylor": taylor,
}
