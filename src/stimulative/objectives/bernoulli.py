"""Losses of labels that are present or not, each by itself: multi-label classification."""

import torch
import torch.nn.functional as F
from torch import Tensor

from stimulative.errors import UsageError
from stimulative.objectives.kl import IGNORED, mean_of_counted


def label_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy of each label, in at least float32.

    Args:
        logits: Shape ``(batch, labels)``.
        targets: Whether each label is present, 0 or 1 or a probability between, the same shape; -100 where nobody
            knows, which does not count.

    Returns:
        The mean over all that counts, a scalar in nats; 0 where nothing does.
    """
    z = logits.to(torch.promote_types(torch.float32, logits.dtype))
    known = targets != IGNORED
    each = F.binary_cross_entropy_with_logits(z, torch.where(known, targets, 0).to(z.dtype), reduction="none")
    return mean_of_counted(each, known)


def label_divergence(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 1.0, counted: Tensor | None = None
) -> Tensor:
    """How far the student's probability of each label is from the teacher's, which is a fixed target.

    ``KL(Bernoulli(sigmoid(teacher / T)) || Bernoulli(sigmoid(student / T))) * T^2``, as ``kl_divergence`` has it for
    classes that exclude each other.

    Args:
        student_logits: Logits that learn, shape ``(batch, labels)``.
        teacher_logits: Logits to learn from, same shape.
        temperature: ``T``; above 1 it softens both.
        counted: Which labels count, booleans of the same shape; all of them by default.

    Returns:
        The mean over batch and labels, a scalar in nats.

    Raises:
        UsageError: The shapes differ.
    """
    if student_logits.shape != teacher_logits.shape:
        raise UsageError(
            "the student's and the teacher's logits must have the same shape; got "
            f"{tuple(student_logits.shape)} and {tuple(teacher_logits.shape)}"
        )
    dtype = torch.promote_types(torch.float32, torch.promote_types(student_logits.dtype, teacher_logits.dtype))
    student, teacher = student_logits.to(dtype) / temperature, teacher_logits.detach().to(dtype) / temperature
    present = teacher.sigmoid()
    each = present * (F.logsigmoid(teacher) - F.logsigmoid(student)) + (1 - present) * (
        F.logsigmoid(-teacher) - F.logsigmoid(-student)
    )
    return mean_of_counted(each, counted) * temperature**2
