"""How far numbers are from numbers: regression, images of images, embeddings."""

import torch
import torch.nn.functional as F
from torch import Tensor

from stimulative.errors import UsageError


def squared_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean squared difference, in at least float32; the teacher is a fixed target.

    Twice the divergence of normal distributions of unit variance around both.

    Args:
        student: Any shape.
        teacher: The same shape.

    Raises:
        UsageError: The shapes differ.
    """
    student, teacher = _alike(student, teacher)
    return F.mse_loss(student, teacher)


def cosine_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """One minus the cosine, the mean over all vectors, in at least float32; the teacher is a fixed target.

    Args:
        student: Shape ``(..., features)``.
        teacher: The same shape.

    Raises:
        UsageError: The shapes differ.
    """
    student, teacher = _alike(student, teacher)
    return (1 - F.cosine_similarity(student, teacher, dim=-1)).mean()


def _alike(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    if student.shape != teacher.shape:
        raise UsageError(
            f"what is compared must have the same shape; got {tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    dtype = torch.promote_types(torch.float32, torch.promote_types(student.dtype, teacher.dtype))
    return student.to(dtype), teacher.detach().to(dtype)
