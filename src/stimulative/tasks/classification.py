"""Classes that exclude each other: of images, of tokens, of anything that has one of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stimulative.errors import UsageError
from stimulative.objectives import IGNORED, Normalisation, counted, cross_entropy, kl_divergence, normalised
from stimulative.tasks.meters import ClassMeter
from stimulative.tasks.rows import two_classes
from stimulative.tasks.task import Rows, Task, shape_of

_SUM_TOLERANCE = 1e-2  # probabilities in half precision

_WHAT = (
    "classification takes logits (batch, classes) with class indices (batch,) or probabilities (batch, classes), and "
    "both with positions between; or one logit (batch, 1) with 0 and 1 (batch,)"
)


class Classification(Task):
    """One class of each sample, or of each position of sequences: softmax, cross-entropy and its divergence.

    A single logit is that of the second of two classes. The classes come last; of images of logits, where they come
    second, the task is ``Segmentation``.
    """

    has_temperature = True
    name = "classification"
    smooths = True
    has_direction = True

    def check_outputs(self, outputs: Any) -> None:
        """Logits of shape (batch, classes) or (batch, positions, classes)."""
        if not isinstance(outputs, Tensor) or not outputs.is_floating_point():
            raise UsageError(f"{_WHAT}; the model gives {shape_of(outputs)}{_others(outputs)}")
        if outputs.dim() not in (2, 3):
            raise UsageError(f"{_WHAT}; the model gives {shape_of(outputs)}{_others(outputs)}")

    def check(self, outputs: Any, targets: Any, *, values: bool) -> None:
        """Class indices or probabilities in the shape of the logits; see ``Task.check``."""
        self.check_outputs(outputs)
        if not isinstance(targets, Tensor):
            raise UsageError(f"{_WHAT}; got targets {shape_of(targets)}")
        classes = outputs.shape[-1]
        targets = _in_shape(outputs, targets)
        as_indices = not targets.is_floating_point() and targets.shape == outputs.shape[:-1]
        as_probabilities = targets.is_floating_point() and targets.shape == _two(outputs).shape
        if not (as_indices or as_probabilities):
            raise UsageError(
                f"{_WHAT}; got logits {shape_of(outputs)} and targets {shape_of(targets)}{_others(outputs, targets)}"
            )
        if values and targets.numel():
            if as_indices:
                check_indices(targets, max(classes, 2))
            else:
                _check_probabilities(targets)

    def loss(self, outputs: Any, targets: Any, *, label_smoothing: float = 0.0) -> Tensor:
        """Cross-entropy; see ``Task.loss``."""
        targets = _in_shape(outputs, targets)
        return cross_entropy(_two(outputs), targets, label_smoothing=label_smoothing)

    def divergence(self, student: Any, teacher: Any, targets: Any = None, *, temperature: float = 1.0) -> Tensor:
        """The divergence of class probabilities; see ``Task.divergence``."""
        rows = self.rows(student, teacher, targets)
        return kl_divergence(rows.student, rows.teacher, temperature=temperature, counted=rows.counted)

    def rows(self, student: Any, teacher: Any, targets: Any = None) -> Rows:
        """Logits as they are; see ``Task.rows``."""
        targets = None if targets is None else _in_shape(teacher, targets)
        return Rows(_two(student), _two(teacher), targets, None if targets is None else counted(targets))

    def decided(self, outputs: Any) -> Tensor:
        """The most likely class."""
        return _two(outputs).argmax(-1)

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Their softmax; of a single logit its sigmoid."""
        return outputs.sigmoid() if outputs.shape[-1] == 1 else outputs.softmax(-1)

    def meter(self, *, temperature: float = 1.0) -> ClassMeter:
        """Top-1 accuracy, and F1 of each class."""
        return ClassMeter(temperature)

    def direction(self, outputs: Any, amplitude: float, by: Normalisation = "deviation") -> Tensor:
        """Logits of a standard deviation of ``amplitude`` over the classes; see ``Task.direction``."""
        return normalised(_two(outputs), amplitude=amplitude, by=by)


def check_indices(targets: Tensor, classes: int, *ignored: int) -> None:
    """Make sure that class indices are from 0 to the number of classes; waits for an accelerator.

    Args:
        targets: Class indices.
        classes: How many classes there are.
        ignored: Indices that do not count, besides -100.

    Raises:
        UsageError: If one is not.
    """
    low, high = _ends_to_check(targets)
    if low >= 0 and high < classes:
        return
    known = targets != IGNORED
    for index in ignored:
        known &= targets != index
    low, high = _ends_to_check(torch.where(known, targets, 0))
    if low < 0 or high >= classes:
        raise UsageError(
            f"class indices are from 0 to {classes - 1} here, or {IGNORED} where none counts; got {low} to {high}"
        )


def _ends_to_check(indices: Tensor) -> list[int]:
    """The least and the greatest; an accelerator is waited for once."""
    ends = indices.aminmax()
    return [int(end) for end in ends] if indices.device.type == "cpu" else torch.stack(ends).tolist()


def _two(logits: Tensor) -> Tensor:
    return two_classes(logits)


def _in_shape(logits: Tensor, targets: Tensor) -> Tensor:
    """Targets without a last dimension of one; those of a single logit, as probabilities, with one of two."""
    if targets.dim() == logits.dim() and targets.shape[-1] == 1:
        targets = targets.squeeze(-1)
    if targets.dtype == torch.bool:
        targets = targets.long()
    if logits.shape[-1] == 1 and targets.is_floating_point() and targets.shape == logits.shape[:-1]:
        targets = torch.stack([1 - targets, targets], -1)
    return targets


def _check_probabilities(targets: Tensor) -> None:
    given = targets.detach().float()
    ends = (*torch.aminmax(given), *torch.aminmax(given.sum(-1)))
    low, high, least, most = torch.stack(ends).tolist()  # at once, to wait once
    if low >= 0 and max(1 - least, most - 1) <= _SUM_TOLERANCE:
        return
    raise UsageError(
        "targets that are floating point are class probabilities, 0 or more and 1 together; got values from "
        f"{low:.4g} to {high:.4g} that add up to {least:.4g} to {most:.4g}. For several "
        "labels of a sample say task='multilabel', for numbers or images task='regression'"
    )


def _others(outputs: Any, targets: Any = None) -> str:
    """Which other task this looks like, for the end of a message."""
    if not isinstance(outputs, Tensor):
        return ". For structures give a task of your own: task=stimulative.tasks.OwnTask(loss, divergence)"
    dense = isinstance(targets, Tensor) and not targets.is_floating_point() and targets.dim() == outputs.dim() - 1
    if outputs.dim() > 3 and (targets is None or dense):
        return ". For a class of each pixel say task='segmentation', for images of images task='regression'"
    if dense and outputs.dim() == 3 and targets.shape[1:] == outputs.shape[2:]:
        return ". Where the classes come second say task='segmentation'"
    if isinstance(targets, Tensor) and targets.is_floating_point():
        return ". For numbers or images say task='regression', for several labels of a sample task='multilabel'"
    return ""
