"""Vision tasks: loss, distillation, metric, and what of a model's answer must fit the data.

A task is a file and an entry here.
"""

from __future__ import annotations

from lookup_tables.registry import Registry
from pruner.train.tasks.base import Task
from pruner.train.tasks.classification import CLASSIFICATION
from pruner.train.tasks.detection import DETECTION

TASKS: Registry[Task] = Registry("task", (CLASSIFICATION, DETECTION))
