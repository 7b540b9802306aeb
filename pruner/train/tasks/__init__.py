"""Vision tasks: loss, distillation, metric, and what of a model's answer must fit the data.

A task is a file and an entry here; a user's own comes from a function.
"""

from __future__ import annotations

from lookup_tables.registry import Registry
from pruner import RunError
from pruner.models.user_code import call_function
from pruner.train.tasks.base import Task, VisionTask
from pruner.train.tasks.classification import CLASSIFICATION
from pruner.train.tasks.detection import DETECTION

NEEDED = (
    "loss", "training_loss", "distillation", "metric", "batch_score", "as_answer", "check",
)  # fmt: skip


def own_task(name: str) -> Task:
    """The task of a user's `file.py:function`, which returns a VisionTask.

    Its score is called `metric_name` where it has one. Raises RunError for what is no such task.
    """
    made = call_function(name, "--task", RunError)
    for method in NEEDED:
        if not callable(getattr(made, method, None)):
            raise RunError(
                f"--task {name} returned {type(made).__name__}, which has no method {method}; "
                "a task is a pruner.train.tasks.base.VisionTask"
            )
    if not hasattr(made, "settings"):
        raise RunError(f"--task {name}: {type(made).__name__} has no settings; set OwnSettings()")
    assert isinstance(made, VisionTask)
    called = str(getattr(made, "metric_name", "score"))
    return Task(name, "a user's own", called, lambda settings: made)


TASKS: Registry[Task] = Registry("task", (CLASSIFICATION, DETECTION), own_task)
