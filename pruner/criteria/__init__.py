"""Pruning criteria: which channels of a group stay.

A criterion is a file and an entry here. Most rank channels by the traced model, by training images
or both; `dynamic` decides while it trains a masked network, so it belongs to fine-tuning.
"""

from __future__ import annotations

from lookup_tables.registry import Registry
from pruner.criteria import dynamic, magnitude, median, taylor
from pruner.criteria.base import Criterion

CRITERIA: Registry[Criterion] = Registry(
    "criterion",
    (
        Criterion("l1", "sum of absolute weights", magnitude.l1_norm),
        Criterion("l2", "Euclidean norm of weights", magnitude.l2_norm),
        Criterion("fpgm", "distance from the layer's other filters", median.geometric_median),
        Criterion("batch_norm", "BatchNorm's scale", magnitude.batch_norm_scale),
        Criterion("taylor", "first-order change of the loss", taylor.taylor),
        Criterion(
            "dynamic",
            "LAP's selection while filters train; candidates are cut by l1",
            magnitude.l1_norm,
            dynamic.DynamicSettings,
            dynamic.select_as_set,
        ),
    ),
)
