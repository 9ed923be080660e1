"""A loss and a divergence of one's own, over whatever a model returns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from stimulative.errors import UsageError
from stimulative.tasks.meters import OwnMeter
from stimulative.tasks.task import Task, shape_of


class OwnTask(Task):
    """A task by two functions, of tensors or of structures of them, such as a detector's mapping or several heads.

    ::

        def loss(outputs, targets):
            return F.cross_entropy(outputs["class"], targets["class"]) + F.l1_loss(outputs["box"], targets["box"])

        def divergence(subnet, main, targets):
            return kl_divergence(subnet["class"], main["class"]) + F.mse_loss(subnet["box"], main["box"])

    Args:
        loss: ``(outputs, targets)`` to a scalar: what the main net learns by.
        divergence: ``(subnet_outputs, main_outputs, targets)`` to a scalar: how far a subnet is from the main net,
            whose outputs are without graph. Beside a loss of one's own (``beside``) targets are None. Without it
            subnets can learn from the targets alone (``objective: labels``).
        outputs: From what the model returns to what both get; by default that itself.
        score: ``(outputs, targets)`` to a number, the mean over a batch, the greater the better; by default the loss
            with its sign changed.
    """

    measure = "score"
    name = "own"

    def __init__(
        self,
        loss: Callable[[Any, Any], Tensor],
        divergence: Callable[[Any, Any, Any], Tensor] | None = None,
        *,
        outputs: Callable[[Any], Any] | None = None,
        score: Callable[[Any, Any], Any] | None = None,
    ) -> None:
        for what, function in (("loss", loss), ("divergence", divergence), ("outputs", outputs), ("score", score)):
            if function is not None and not callable(function):
                raise UsageError(f"{what}= of a task of your own is a function; got {function!r}")
        self._loss = loss
        self._divergence = divergence
        self._outputs = outputs
        self._score = score

    def outputs_of(self, returned: Any) -> Any:
        """What the model returns, or what ``outputs`` makes of it."""
        return returned if self._outputs is None else self._outputs(returned)

    def check_outputs(self, outputs: Any) -> None:
        """Nothing: the functions know."""

    def check(self, outputs: Any, targets: Any, *, values: bool) -> None:
        """Nothing: the functions know."""

    def loss(self, outputs: Any, targets: Any, *, label_smoothing: float = 0.0) -> Tensor:
        """What the function gives."""
        return scalar(self._loss(outputs, targets), "loss")

    def divergence(self, student: Any, teacher: Any, targets: Any = None, *, temperature: float = 1.0) -> Tensor:
        """What the function gives."""
        if self._divergence is None:
            raise UsageError(
                "this task of your own has no divergence, which subnets learn from the main net by: give one, "
                "OwnTask(loss, divergence), or let subnets learn from the targets with objective='labels'"
            )
        return scalar(self._divergence(student, teacher, targets), "divergence")

    def meter(self, *, temperature: float = 1.0) -> OwnMeter:
        """The mean score of all samples."""
        return OwnMeter(self._loss, self._score)

    def __repr__(self) -> str:
        return f"OwnTask(loss={self._loss!r}, divergence={self._divergence!r})"


def scalar(value: Any, what: str) -> Tensor:
    """A scalar tensor.

    Raises:
        UsageError: If it is none.
    """
    if isinstance(value, Tensor) and not value.dim():
        return value
    raise UsageError(
        f"the {what} of a task of your own has to return a scalar tensor, a mean over samples; got {shape_of(value)}"
    )
