"""The tasks by name, and the one that a model was made for, where it says so."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from stimulative.errors import UsageError
from stimulative.naming import did_you_mean
from stimulative.tasks.classification import Classification
from stimulative.tasks.embedding import Embedding
from stimulative.tasks.measures import TaskName
from stimulative.tasks.multilabel import MultiLabel
from stimulative.tasks.regression import ImageToImage, Regression
from stimulative.tasks.segmentation import Segmentation
from stimulative.tasks.task import Task

TASKS: Mapping[str, Callable[[], Task]] = {
    one.name: one for one in (Classification, MultiLabel, Segmentation, Regression, ImageToImage, Embedding)
}
"""The tasks of this library by name."""

_OF_CLASSES = "images", "text"

_PROBLEMS = {
    "single_label_classification": Classification,
    "multi_label_classification": MultiLabel,
    "regression": Regression,
}
_HEADS: Mapping[str, Callable[[], Task]] = {
    "ForSemanticSegmentation": Segmentation,
    "ForImageSuperResolution": ImageToImage,
    "ForDepthEstimation": Regression,
}


def resolve_task(task: str | Task | None, model: Any = None) -> Task:
    """A task from its name, or the one that a model says it is for.

    Args:
        task: The name of one of ``TASKS``; a task itself; None for what the model says, classification if nothing.
        model: The model.

    Raises:
        UsageError: If there is no such task.
    """
    if isinstance(task, Task):
        return task
    if task is None:
        return task_of_model(model) or Classification()
    if task not in TASKS:
        raise UsageError(
            f"task: got {task!r}, but it is one of {', '.join(TASKS)}, or a task of your own: "
            f"stimulative.tasks.OwnTask(loss, divergence){did_you_mean(str(task), TASKS)}"
        )
    return TASKS[task]()


def task_named(name: TaskName) -> Task:
    """The task that runs are for, by its name in files.

    Raises:
        UsageError: If it is of the user's own, which no file holds.
    """
    return Classification() if name in _OF_CLASSES else resolve_task(name)


def task_of_model(model: Any) -> Task | None:
    """What a model of Transformers says that it is for, by its config or its head; None if it says nothing."""
    config = getattr(model, "config", None)
    problem = getattr(config, "problem_type", None)
    kind = type(model).__name__
    if problem in _PROBLEMS:
        return _PROBLEMS[problem]()
    for head, task in _HEADS.items():
        if kind.endswith(head):
            ignored = getattr(config, "semantic_loss_ignore_index", None)
            return Segmentation(ignored) if task is Segmentation and isinstance(ignored, int) else task()
    if kind.endswith("Classification") and getattr(config, "num_labels", None) == 1:
        return Regression()  # as Transformers takes it
    return None
