"""A class of each pixel, or of each place of a sequence or a volume, the classes in the second dimension."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stimulative.errors import UsageError
from stimulative.objectives import IGNORED, Normalisation, cross_entropy, kl_divergence, normalised
from stimulative.tasks.classification import check_indices
from stimulative.tasks.meters import PixelMeter
from stimulative.tasks.rows import two_classes
from stimulative.tasks.task import Rows, Task, shape_of

_WHAT = (
    "segmentation takes logits (batch, classes, height, width) with class indices (batch, height, width), or "
    "probabilities in the shape of the logits; a single logit with 0 and 1; and both with any other number of "
    "dimensions behind the classes"
)
_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


class Segmentation(Task):
    """Dense classification: a softmax over the second dimension, the mean over all places that count.

    Logits of another resolution than the targets are brought to that (bilinear), as the losses of Transformers do.

    Args:
        ignore_index: The target of places that do not count, besides -100.
    """

    has_temperature = True
    measure = "miou"
    name = "segmentation"
    fields = ("logits", "out")
    smooths = True
    has_direction = True

    def __init__(self, ignore_index: int = 255) -> None:
        self.ignore_index = ignore_index

    def check_outputs(self, outputs: Any) -> None:
        """Logits of shape (batch, classes, ...)."""
        if not isinstance(outputs, Tensor) or not outputs.is_floating_point() or not 3 <= outputs.dim() <= 5:
            raise UsageError(f"{_WHAT}; the model gives {shape_of(outputs)}")
        if outputs.shape[1] > self.ignore_index >= 0:
            raise UsageError(
                f"the model tells {outputs.shape[1]} classes apart, and index {self.ignore_index} is to be one that "
                "does not count: give another, task=stimulative.tasks.Segmentation(ignore_index=-100)"
            )

    def check(self, outputs: Any, targets: Any, *, values: bool) -> None:
        """A class index of each place, or probabilities; see ``Task.check``."""
        self.check_outputs(outputs)
        if not isinstance(targets, Tensor):
            raise UsageError(f"{_WHAT}; got targets {shape_of(targets)}")
        targets = _in_shape(outputs, targets)
        as_indices = not targets.is_floating_point() and targets.dim() == outputs.dim() - 1
        as_probabilities = targets.is_floating_point() and targets.shape[1:2] == two_classes(outputs, 1).shape[1:2]
        fits = targets.dim() == outputs.dim() if targets.is_floating_point() else as_indices
        if not (as_indices or as_probabilities) or not fits or len(targets) != len(outputs):
            raise UsageError(f"{_WHAT}; got logits {shape_of(outputs)} and targets {shape_of(targets)}")
        if values and as_indices and targets.numel():
            check_indices(targets, max(outputs.shape[1], 2), self.ignore_index)

    def loss(self, outputs: Any, targets: Any, *, label_smoothing: float = 0.0) -> Tensor:
        """Cross-entropy, the mean over all places that count; see ``Task.loss``."""
        targets = _in_shape(outputs, targets)
        if targets.is_floating_point():
            rows = _rows(_resized(outputs, targets))
            return cross_entropy(rows, targets.movedim(1, -1), label_smoothing=label_smoothing)
        return cross_entropy(*self.rows_and_indices(outputs, targets), label_smoothing=label_smoothing)

    def rows_and_indices(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Logits with the classes last, at the resolution of the targets, and these, -100 where none counts.

        Args:
            outputs: Logits of shape (batch, classes, ...).
            targets: Class indices of shape (batch, ...).
        """
        targets = _in_shape(outputs, targets)
        return _rows(_resized(outputs, targets)), torch.where(self._counted(targets), targets, IGNORED)

    def decided(self, outputs: Any) -> Tensor:
        """The most likely class of each place."""
        return two_classes(outputs, 1).argmax(1)

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Their softmax over the classes; of a single logit its sigmoid."""
        return outputs.sigmoid() if outputs.shape[1] == 1 else outputs.softmax(1)

    def meter(self, *, temperature: float = 1.0) -> PixelMeter:
        """Mean IoU, and that of each class."""
        return PixelMeter(self)

    def divergence(self, student: Any, teacher: Any, targets: Any = None, *, temperature: float = 1.0) -> Tensor:
        """The divergence of class probabilities, the mean over all places that count; see ``Task.divergence``."""
        rows = self.rows(student, teacher, targets)
        return kl_divergence(rows.student, rows.teacher, temperature=temperature, counted=rows.counted)

    def rows(self, student: Any, teacher: Any, targets: Any = None) -> Rows:
        """A row for each place, at the resolution of the targets; see ``Task.rows``."""
        if targets is None:
            return Rows(_rows(student), _rows(teacher))
        targets = _in_shape(teacher, targets)
        student, teacher = _rows(_resized(student, targets)), _rows(_resized(teacher, targets))
        if targets.is_floating_point():
            return Rows(student, teacher, targets.movedim(1, -1))
        return Rows(student, teacher, targets, self._counted(targets))

    def direction(self, outputs: Any, amplitude: float, by: Normalisation = "deviation") -> Tensor:
        """Logits of a standard deviation of ``amplitude`` over the classes; see ``Task.direction``."""
        return normalised(_rows(outputs), amplitude=amplitude, by=by).movedim(-1, 1)

    def _counted(self, targets: Tensor) -> Tensor:
        return (targets != IGNORED) & (targets != self.ignore_index)

    def __repr__(self) -> str:
        return f"Segmentation(ignore_index={self.ignore_index})"


def _rows(logits: Tensor) -> Tensor:
    """The classes last."""
    return two_classes(logits, 1).movedim(1, -1)


def _in_shape(logits: Tensor, targets: Tensor) -> Tensor:
    if targets.dim() == logits.dim() and targets.shape[1] == 1:
        targets = targets.squeeze(1)
    if targets.dtype == torch.bool:
        targets = targets.long()
    if logits.shape[1] == 1 and targets.is_floating_point() and targets.dim() == logits.dim() - 1:
        targets = torch.stack([1 - targets, targets], 1)
    return targets


def _resized(logits: Tensor, targets: Tensor) -> Tensor:
    size = targets.shape[2:] if targets.is_floating_point() else targets.shape[1:]
    if logits.shape[2:] == size:
        return logits
    return F.interpolate(logits, size=size, mode=_MODES[len(size)], align_corners=False)
