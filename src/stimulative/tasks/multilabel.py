"""Labels that are present or not, each by itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stimulative.errors import UsageError
from stimulative.objectives import IGNORED, label_cross_entropy, label_divergence
from stimulative.tasks.meters import LabelMeter
from stimulative.tasks.task import Task, shape_of

_WHAT = (
    "multilabel takes logits (batch, labels) with targets of the same shape: 0 or 1 or a probability between for each "
    "label, -100 where nobody knows"
)


class MultiLabel(Task):
    """Any number of labels of each sample: a sigmoid for each, binary cross-entropy and its divergence."""

    has_temperature = True
    measure = "map"
    name = "multilabel"

    def check_outputs(self, outputs: Any) -> None:
        """Logits of shape (batch, labels)."""
        if not isinstance(outputs, Tensor) or not outputs.is_floating_point() or outputs.dim() != 2:
            raise UsageError(f"{_WHAT}; the model gives {shape_of(outputs)}")

    def check(self, outputs: Any, targets: Any, *, values: bool) -> None:
        """A number from 0 to 1 for each label; see ``Task.check``."""
        self.check_outputs(outputs)
        if not isinstance(targets, Tensor) or targets.shape != outputs.shape:
            indices = isinstance(targets, Tensor) and targets.shape == outputs.shape[:1]
            hint = ". For one class of each sample say task='classification'" if indices else ""
            raise UsageError(f"{_WHAT}; got logits {shape_of(outputs)} and targets {shape_of(targets)}{hint}")
        if values and targets.numel():
            known = torch.where(targets != IGNORED, targets, 0)
            low, high = torch.stack(torch.aminmax(known)).tolist()  # at once, to wait once
            if low < 0 or high > 1:
                raise UsageError(f"{_WHAT}; got values from {low:.4g} to {high:.4g}")

    def loss(self, outputs: Any, targets: Any, *, label_smoothing: float = 0.0) -> Tensor:
        """Binary cross-entropy, the mean over samples and labels; see ``Task.loss``."""
        return label_cross_entropy(outputs, targets)

    def decided(self, outputs: Any) -> Tensor:
        """Which labels are more likely there than not."""
        return outputs > 0

    def probabilities(self, outputs: Tensor) -> Tensor:
        """The sigmoid of each."""
        return outputs.sigmoid()

    def meter(self, *, temperature: float = 1.0) -> LabelMeter:
        """Mean average precision, and that of each label."""
        return LabelMeter()

    def divergence(self, student: Any, teacher: Any, targets: Any = None, *, temperature: float = 1.0) -> Tensor:
        """The divergence of each label's probability; see ``Task.divergence``."""
        counts = None if targets is None else targets != IGNORED
        return label_divergence(student, teacher, temperature=temperature, counted=counts)
