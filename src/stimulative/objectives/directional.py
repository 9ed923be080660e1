"""KL−: a divergence of the direction of logits alone, whatever their length.

Source: Ye et al., "Stimulative Training++: Go Beyond The Performance Limits of Residual Networks", 2023,
arXiv 2305.02507. Both nets' logits are brought to zero mean and unit standard deviation over the classes (a layer norm
without parameters), multiplied by an amplitude ``A``, and compared as in stimulative training:

    z' = A * (z - mean(z)) / sqrt(var(z) + eps),    KL-(z_m, z_s) = KL(softmax(z_m' / T) || softmax(z_s' / T)) * T^2.

The variance is the biased one and ``eps`` is 1e-7, as in the authors' published code. That can be switched to two other
divisors, which are here as well: the teacher's deviation for both nets, and the length of each logit vector.

Adding a number to all logits of a net, or multiplying them by a positive one, changes nothing (but for ``eps``): a
subnet cannot lower this divergence, nor a main net raise it, by being more or less sure.
"""

from typing import Literal

import torch
from torch import Tensor

from stimulative.errors import UsageError
from stimulative.objectives.kl import kl_divergence

EPS = 1e-7

Normalisation = Literal["deviation", "teacher", "length"]
"""What logits are divided by: their own deviation over the classes, that of the teacher, or their length."""


def normalised(
    logits: Tensor, *, amplitude: float = 1.0, by: Normalisation = "deviation", teacher: Tensor | None = None
) -> Tensor:
    """Logits of zero mean and of a standard deviation of ``amplitude`` over the classes.

    Args:
        logits: Shape ``(..., classes)``.
        amplitude: ``A``; the greatest logit that it allows is ``A * sqrt(classes - 1)``.
        by: Divide by the ``deviation``; by that of the ``teacher`` instead; or by the ``length`` of the logit vector as
            it is, not brought to zero mean.
        teacher: The logits whose deviation divides, same shape; by default the logits themselves.

    Returns:
        The same shape, float32 or, when the logits are float64, float64; zeros where all logits are equal. Classes that
        are masked by -inf stay so, and do not count.

    Raises:
        UsageError: The logits are not floating point or have no two classes, or the amplitude is not positive.
    """
    if not logits.is_floating_point():
        raise UsageError(f"logits must be floating point; got {logits.dtype}")
    if logits.dim() == 0 or logits.shape[-1] < 2:
        raise UsageError(
            f"the direction of logits takes a class dimension last, of two classes or more; got shape "
            f"{tuple(logits.shape)}"
        )
    if not 0 < amplitude < float("inf"):
        raise UsageError(f"the amplitude must be a positive number; got {amplitude}, 1.0 is the papers'")
    z = logits.to(torch.promote_types(torch.float32, logits.dtype))
    masked = z.isneginf()
    if by == "length":
        there = torch.where(masked, 0, z)
        return torch.where(masked, z, amplitude * there * torch.rsqrt(there.square().sum(-1, keepdim=True) + EPS))
    centred, variance = _spread(z, masked)
    if by == "teacher" and teacher is not None:
        _, variance = _spread(teacher.detach().to(z.dtype), masked)
    return torch.where(masked, z, amplitude * centred * torch.rsqrt(variance + EPS))


def _spread(z: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of zero mean over the classes that are not masked, and their variance."""
    count = (~masked).sum(-1, keepdim=True).clamp(min=1)
    centred = torch.where(masked, 0, z - torch.where(masked, 0, z).sum(-1, keepdim=True) / count)
    return centred, centred.square().sum(-1, keepdim=True) / count


def directional_divergence(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    amplitude: float = 1.0,
    by: Normalisation = "deviation",
    counted: Tensor | None = None,
) -> Tensor:
    """How far the direction of the student's logits is from that of the teacher's (KL−).

    The teacher is a fixed target: no gradient reaches it.

    Args:
        student_logits: Logits that learn, shape ``(..., classes)``.
        teacher_logits: Logits to learn from, same shape.
        temperature: ``T``; above 1 it softens both distributions, and the divergence is multiplied by its square.
        amplitude: ``A``, the standard deviation that both nets' logits are brought to.
        by: What both are divided by; see ``normalised``.
        counted: Which samples count, booleans of the leading dimensions' shape; all of them by default.

    Returns:
        The mean over all leading dimensions, a scalar in nats, float32 or, when either input is float64, float64.

    Raises:
        UsageError: As for ``kl_divergence`` and ``normalised``.
    """
    return kl_divergence(
        normalised(student_logits, amplitude=amplitude, by=by, teacher=teacher_logits),
        normalised(teacher_logits.detach(), amplitude=amplitude, by=by),
        temperature=temperature,
        counted=counted,
    )
