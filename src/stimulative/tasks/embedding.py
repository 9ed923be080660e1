"""Embeddings: vectors that stand for texts or images, close to each other where these are alike."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from stimulative.errors import UsageError
from stimulative.objectives import cosine_distance, squared_distance
from stimulative.tasks.meters import VectorMeter
from stimulative.tasks.task import Task, shape_of

_WHAT = "embedding takes vectors (batch, features) with None or vectors of the same shape as targets"
_DISTANCES = {"cosine": cosine_distance, "squared": squared_distance}


class Embedding(Task):
    """A vector for each sample, which subnets are to give as the main net does; labels are not needed.

    With targets, vectors to be kept close to, the main net learns these; without, its own loss is 0.

    Args:
        distance: ``cosine``, one minus the cosine of the angle; or ``squared``, the mean squared difference.
    """

    measure = "cosine"
    name = "embedding"
    fields = ("sentence_embedding", "text_embeds", "image_embeds", "embeddings", "pooler_output", "logits")

    def __init__(self, distance: Literal["cosine", "squared"] = "cosine") -> None:
        if distance not in _DISTANCES:
            raise UsageError(f"distance: got {distance!r}, but it is {' or '.join(_DISTANCES)}")
        self.distance: Literal["cosine", "squared"] = distance

    def check_outputs(self, outputs: Any) -> None:
        """Vectors of shape (batch, features)."""
        if not isinstance(outputs, Tensor) or not outputs.is_floating_point() or outputs.dim() != 2:
            raise UsageError(f"{_WHAT}; the model gives {shape_of(outputs)}")

    def check(self, outputs: Any, targets: Any, *, values: bool) -> None:
        """None, or vectors; see ``Task.check``."""
        self.check_outputs(outputs)
        if targets is None:
            return
        if not isinstance(targets, Tensor) or not targets.is_floating_point() or targets.shape != outputs.shape:
            raise UsageError(f"{_WHAT}; got outputs {shape_of(outputs)} and targets {shape_of(targets)}")

    def loss(self, outputs: Any, targets: Any, *, label_smoothing: float = 0.0) -> Tensor:
        """The distance from the targets, 0 without any; see ``Task.loss``."""
        return outputs.sum() * 0 if targets is None else _DISTANCES[self.distance](outputs, targets)

    def meter(self, *, temperature: float = 1.0) -> VectorMeter:
        """The cosine to what the vectors are to be like, and whether similarities rank alike."""
        return VectorMeter()

    def divergence(self, student: Any, teacher: Any, targets: Any = None, *, temperature: float = 1.0) -> Tensor:
        """The distance from the main net's vectors; see ``Task.divergence``."""
        return _DISTANCES[self.distance](student, teacher)

    def __repr__(self) -> str:
        return f"Embedding(distance={self.distance!r})"
