"""What every task is: one contract for methods, loops of one's own, integrations and recipes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from stimulative.errors import UsageError
from stimulative.objectives import Normalisation
from stimulative.tasks.meters import Meter


class Rows(NamedTuple):
    """Logits of classes that exclude each other, and what is known of them.

    Args:
        student: Logits that learn, shape ``(..., classes)``.
        teacher: Logits to learn from, same shape.
        targets: Class indices of the leading dimensions' shape, or probabilities in the shape of the logits; None where
            nobody knows.
        counted: Which of them count, booleans of the leading dimensions' shape; None for all.
    """

    student: Tensor
    teacher: Tensor
    targets: Tensor | None = None
    counted: Tensor | None = None


class Task(ABC):
    """What a network is for.

    A method asks it for the loss of the main net and for the divergence of its subnets, both scalars in at least
    float32; what ``outputs_of`` finds in what the model returns is what all the others get.
    """

    name: ClassVar[str]

    measure: ClassVar[str] = "top1"
    """What nets are compared by, as files call it; see ``MEASURES``."""

    fields: ClassVar[tuple[str, ...]] = ("logits",)
    """Where outputs are in what a model returns, if that is no tensor: keys or attributes, the first that is there."""

    smooths: ClassVar[bool] = False
    """Whether labels can be smoothed."""

    has_temperature: ClassVar[bool] = False
    """Whether outputs are logits, which a temperature softens."""

    has_direction: ClassVar[bool] = False
    """Whether outputs are logits of classes, whose direction alone can be compared."""

    def outputs_of(self, returned: Any) -> Any:
        """The outputs in what a model returns: a tensor itself, one of ``fields``, or the first one of a tuple.

        Raises:
            UsageError: If there are none.
        """
        if isinstance(returned, Tensor):
            return returned
        for field in self.fields:
            found = returned.get(field) if isinstance(returned, Mapping) else getattr(returned, field, None)
            if isinstance(found, Tensor):
                return found
        if isinstance(returned, tuple | list) and returned and isinstance(returned[0], Tensor):
            return returned[0]
        named = f" of {', '.join(map(str, returned))}" if isinstance(returned, Mapping) else ""
        raise UsageError(
            f"the model returns {type(returned).__name__}{named}, in which there is nothing for {self.name}. A model "
            f"to train returns its outputs alone, first in a tuple, or as {' or '.join(map(repr, self.fields))} (of "
            "Transformers: a model with a head, AutoModelFor..., not the bare AutoModel). For anything else give a "
            "task of your own: task=stimulative.tasks.OwnTask(loss, divergence)"
        )

    @abstractmethod
    def check_outputs(self, outputs: Any) -> None:
        """Make sure that outputs can be those of the task; of a tensor by its shape and type alone.

        Raises:
            UsageError: If they cannot.
        """

    @abstractmethod
    def check(self, outputs: Any, targets: Any, *, values: bool) -> None:
        """Make sure that targets are of this task, and fit the outputs.

        Args:
            outputs: What ``outputs_of`` gave.
            targets: The targets.
            values: Look at values, too, for which an accelerator has to be waited for.

        Raises:
            UsageError: If they do not fit: what was expected and given, and which task they look like.
        """

    @abstractmethod
    def loss(self, outputs: Any, targets: Any, *, label_smoothing: float = 0.0) -> Tensor:
        """What the main net learns by; the targets have been checked."""

    @abstractmethod
    def divergence(self, student: Any, teacher: Any, targets: Any = None, *, temperature: float = 1.0) -> Tensor:
        """How far a subnet is from the main net, which is a fixed target.

        Args:
            student: The subnet's outputs.
            teacher: The main net's, of the same samples.
            targets: Their targets, which say what counts; None where everything does.
            temperature: Softens both, where outputs are logits.
        """

    @abstractmethod
    def meter(self, *, temperature: float = 1.0) -> Meter:
        """What adds up how good outputs are.

        Args:
            temperature: What logits are divided by for the loss, where they are those of classes.
        """

    def decided(self, outputs: Any) -> Tensor | None:
        """What outputs decide: the most likely class, or which labels are there; None where they are numbers."""
        return None

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Probabilities in the shape of the outputs.

        Raises:
            UsageError: If outputs are no logits.
        """
        raise UsageError(f"outputs of {self.name} are no logits, so that they have no probabilities")

    def rows(self, student: Any, teacher: Any, targets: Any = None) -> Rows:
        """Logits of classes that exclude each other, the classes last, of a subnet and of what it learns from.

        Args:
            student: The subnet's outputs.
            teacher: What it learns from, of the same samples.
            targets: Their targets; None where everything counts.

        Raises:
            UsageError: If outputs are no logits of classes.
        """
        raise UsageError(f"outputs of {self.name} are no logits of classes that exclude each other")

    def direction(self, outputs: Any, amplitude: float, by: Normalisation = "deviation") -> Any:
        """Logits of a standard deviation of ``amplitude`` over the classes, or what else they are divided by.

        Raises:
            UsageError: If outputs are no logits of classes.
        """
        raise UsageError(f"outputs of {self.name} have no direction: only logits of classes that exclude each other do")

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def shape_of(value: Any) -> str:
    """What a value is, for messages: shape and type of a tensor, or what else it is."""
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    return type(value).__name__
