"""The two terms of stimulative training, as functions of logits.

Source: Ye et al., "Stimulative Training of Residual Networks: A Social Psychology Perspective of Loafing",
NeurIPS 2022, arXiv 2210.04153. At every step the main net ``m`` and one sampled subnet ``s`` share the loss

    L = CE(z_m, y) + balance * KL(softmax(z_m) || softmax(z_s)),

where the main net's logits ``z_m`` are a fixed target in the second term (the authors' code detaches them).

The temperature ``T`` and the factor ``T^2`` are those of Hinton et al., "Distilling the Knowledge in a Neural
Network", 2015, arXiv 1503.02531, section 2: without the factor the gradient would shrink as ``1 / T^2``.

Logits of half precision are raised to float32 first: with the 8 significant bits of bfloat16, rounding over
many classes can exceed the difference of the two nets.

Of a language model every position of a sequence is a sample with logits of its own. Positions whose target is -100 (as
PyTorch and Transformers mark padding) count in neither term.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from stimulative.errors import UsageError

IGNORED = -100
"""The target of a position that does not count."""


def counted(targets: Tensor) -> Tensor | None:
    """Which samples count: those of sequences whose target is not -100. None where there are no sequences.

    Args:
        targets: Class indices of shape ``(B,)`` or ``(B, ..., positions)``, or probabilities.

    Returns:
        Booleans in the shape of the targets, or None for all.
    """
    return None if targets.is_floating_point() or targets.dim() < 2 else targets != IGNORED


def kl_divergence(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 1.0, counted: Tensor | None = None
) -> Tensor:
    """How far the student's class probabilities are from the teacher's.

    ``KL(softmax(teacher / T) || softmax(student / T)) * T^2``, the mean over all leading dimensions. The
    teacher is a fixed target: no gradient reaches it.

    Args:
        student_logits: Logits that learn, shape ``(..., classes)``.
        teacher_logits: Logits to learn from, same shape.
        temperature: ``T``; above 1 it softens both distributions.
        counted: Which samples count, booleans of the leading dimensions' shape; all of them by default.

    Returns:
        A scalar in nats, float32 or, when either input is float64, float64; 0 where no sample counts.

    Raises:
        UsageError: The shapes differ, there is no class dimension or nothing to average, the logits are not
            floating point, or the temperature is not a positive number.
    """
    _check_logits("student logits", student_logits)
    _check_logits("teacher logits", teacher_logits)
    if student_logits.shape != teacher_logits.shape:
        raise UsageError(
            "the student's and the teacher's logits must have the same shape; got "
            f"{tuple(student_logits.shape)} and {tuple(teacher_logits.shape)}. Give both nets the "
            "same batch and the same number of classes"
        )
    if not (temperature > 0 and math.isfinite(temperature)):
        raise UsageError(f"the temperature must be a positive number; got {temperature}, 1.0 is plain KL")

    dtype = torch.promote_types(torch.float32, torch.promote_types(student_logits.dtype, teacher_logits.dtype))
    student, teacher = (
        log_probabilities(logits.to(dtype), temperature) for logits in (student_logits, teacher_logits.detach())
    )
    if counted is not None:
        if counted.shape != student.shape[:-1]:
            raise UsageError(
                f"which samples count is said for each of {tuple(student.shape[:-1])}; got {tuple(counted.shape)}"
            )
        each = F.kl_div(student, teacher, reduction="none", log_target=True).sum(-1)
        return mean_of_counted(each, counted) * temperature**2
    total = F.kl_div(student, teacher, reduction="sum", log_target=True)
    samples = student.numel() // student.shape[-1]
    return total * (temperature**2 / samples)


def cross_entropy(logits: Tensor, targets: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy in at least float32, against class indices or against probabilities (as mixup gives).

    Args:
        logits: Shape ``(batch, classes)``, or ``(batch, positions, classes)`` of sequences.
        targets: Class indices of any integer type, of the shape of the logits without the classes, -100 where a
            position does not count; or probabilities, of the shape of the logits.
        label_smoothing: Share of the probability that is spread evenly over all classes, from 0 to 1.

    Returns:
        The mean over all that counts, a scalar in nats, float32 or, when the logits are float64, float64; of sequences
        of which nothing counts, 0.

    Raises:
        UsageError: The shapes or types are none of these.
    """
    _check_logits("logits", logits)
    as_indices = logits.dim() >= 2 and targets.shape == logits.shape[:-1] and not targets.is_floating_point()
    as_probabilities = logits.dim() >= 2 and targets.shape == logits.shape and targets.is_floating_point()
    if not (as_indices or as_probabilities):
        raise UsageError(
            "cross-entropy takes logits of shape (batch, classes) with integer targets of shape (batch,) or "
            "floating point targets of shape (batch, classes), or both with positions between batch and classes; got "
            f"logits {tuple(logits.shape)} and {targets.dtype} targets {tuple(targets.shape)}"
        )
    dtype = torch.promote_types(torch.float32, logits.dtype)
    targets = targets.long() if as_indices else targets.to(dtype)
    sequences = logits.dim() > 2
    if sequences:
        logits, targets = logits.flatten(0, -2), targets.flatten() if as_indices else targets.flatten(0, -2)
    if not (sequences and as_indices):
        return F.cross_entropy(logits.to(dtype), targets, label_smoothing=label_smoothing, ignore_index=IGNORED)
    total = F.cross_entropy(
        logits.to(dtype), targets, label_smoothing=label_smoothing, ignore_index=IGNORED, reduction="sum"
    )
    return total / (targets != IGNORED).sum().clamp(min=1)  # the mean over no position at all is no number


def mean_of_counted(each: Tensor, counted: Tensor | None) -> Tensor:
    """The mean of what counts, a scalar; 0 where nothing does.

    Args:
        each: Values.
        counted: Which of them count, booleans of the same shape; None for all.
    """
    return each.mean() if counted is None else torch.where(counted, each, 0).sum() / counted.sum().clamp(min=1)


def log_probabilities(logits: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """The logarithms of class probabilities; those of classes that are masked by -inf are the least finite number.

    Args:
        logits: Shape ``(..., classes)``, floating point.
        temperature: What they are divided by, a number or a tensor that broadcasts.
    """
    softened = logits if isinstance(temperature, float | int) and temperature == 1 else logits / temperature
    # a class that is masked by -inf has probability 0 and adds nothing, but 0 times infinity would be no number
    least = torch.finfo(logits.dtype).min
    # threshold's backward is one kernel, of clamp's several
    return torch.threshold(torch.log_softmax(softened, dim=-1), least, least)


def _check_logits(name: str, logits: Tensor) -> None:
    if not logits.is_floating_point():
        raise UsageError(f"{name} must be floating point; got {logits.dtype}")
    if logits.dim() == 0 or logits.numel() == 0:
        raise UsageError(
            f"{name} must have a class dimension last and hold at least one sample; got shape {tuple(logits.shape)}"
        )
