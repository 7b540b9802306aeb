"""A pruning criterion: the first channels stay."""

import torch

from pruner.criteria.base import Criterion

CRITERION = Criterion(
    "first",
    "the first channels stay",
    lambda trace, images, task: {
        group.name: torch.arange(group.width, 0, -1.0) for group in trace.network.groups
    },
)
