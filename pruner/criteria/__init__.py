"""Pruning criteria: which channels of a group stay.

A criterion is a function of the traced model and of training images; those that read the weights
alone ignore the images. Channels of higher importance stay longer. `dynamic` decides while it
trains a masked network, so it belongs to fine-tuning (`pruner/criteria/dynamic.py`).
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from pruner.criteria.magnitude import batch_norm_scale, l1_norm, l2_norm
from pruner.criteria.median import geometric_median
from pruner.criteria.taylor import taylor
from pruner.data import Images
from pruner.trace import Trace

Criterion = Callable[[Trace, Images], dict[str, Tensor]]  # group → (width,)

DYNAMIC = "dynamic"
CRITERIA: dict[str, Criterion] = {
    "l1": l1_norm,
    "l2": l2_norm,
    "fpgm": geometric_median,
    "batch_norm": batch_norm_scale,
    "taylor": taylor,
}
