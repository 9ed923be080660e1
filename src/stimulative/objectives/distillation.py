"""Other ways to tell how far a student's logits are from a teacher's: those of the papers' ablations and of successors.

Sources:
    Decoupled distillation: Zhao et al., "Decoupled Knowledge Distillation", CVPR 2022, arXiv 2203.08679.
    The teacher's top classes: Kang and Kim, "Adaptive Depth Networks with Skippable Sub-Paths", NeurIPS 2024,
    arXiv 2312.16392; its code compares a teacher's 500 most likely classes.

Cross-entropy to a teacher, decoupled distillation and squared differences are among the losses that the authors'
published code of stimulative training can be switched to. All take logits with the classes last, raise them to float32
at least, and hold the teacher fixed: no gradient reaches it.
"""

from typing import Literal

import torch
from torch import Tensor

from stimulative.errors import UsageError
from stimulative.objectives.kl import kl_divergence, log_probabilities, mean_of_counted

Direction = Literal["forward", "reverse", "both"]


def divergence_of_top(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    top: int | None = None,
    direction: Direction = "forward",
    sure: float = 1.0,
    temperature: float = 1.0,
    counted: Tensor | None = None,
) -> Tensor:
    """The divergence of class probabilities, of some classes, in either direction, softened where the teacher is sure.

    Args:
        student_logits: Logits that learn, shape ``(..., classes)``.
        teacher_logits: Logits to learn from, same shape.
        top: Compare the teacher's most likely classes, so many of them, and their probabilities among each other; None
            for all.
        direction: ``forward`` is ``KL(teacher || student)``, by which a student learns to cover all that its teacher
            holds possible; ``reverse`` is ``KL(student || teacher)``; ``both`` is the mean of the two.
        sure: The temperature of a sample rises from ``temperature`` to this many times as much as the teacher's largest
            probability rises from 0 to 1.
        temperature: ``T``; each sample's divergence is multiplied by the square of its temperature.
        counted: Which samples count, booleans of the leading dimensions' shape; all of them by default.

    Returns:
        The mean over all that counts, a scalar in nats.
    """
    student, teacher = _raised(student_logits, teacher_logits)
    softness = torch.full_like(teacher[..., :1], temperature)
    if sure != 1:
        softness = softness * (1 + (sure - 1) * teacher.softmax(-1).amax(-1, keepdim=True))
    if top is not None and top < teacher.shape[-1]:
        likely = teacher.topk(top, dim=-1).indices
        student, teacher = student.gather(-1, likely), teacher.gather(-1, likely)
    student, teacher = log_probabilities(student, softness), log_probabilities(teacher, softness)
    forward = (teacher.exp() * (teacher - student)).sum(-1)
    reverse = (student.exp() * (student - teacher)).sum(-1)
    each = {"forward": forward, "reverse": reverse, "both": (forward + reverse) / 2}[direction]
    return mean_of_counted(each * softness.squeeze(-1).square(), counted)


def soft_cross_entropy(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 1.0, counted: Tensor | None = None
) -> Tensor:
    """The cross-entropy of the student to the teacher's probabilities, times ``T^2``.

    The divergence plus the teacher's entropy, which has no gradient: a student learns the same by both.

    Args:
        student_logits: Logits that learn, shape ``(..., classes)``.
        teacher_logits: Logits to learn from, same shape.
        temperature: ``T``.
        counted: Which samples count, booleans of the leading dimensions' shape; all of them by default.
    """
    divergence = kl_divergence(student_logits, teacher_logits, temperature=temperature, counted=counted)
    _, teacher = _raised(student_logits, teacher_logits)
    logs = log_probabilities(teacher, temperature)
    return divergence - mean_of_counted((logs.exp() * logs).sum(-1), counted) * temperature**2


def decoupled_divergence(
    student_logits: Tensor,
    teacher_logits: Tensor,
    targets: Tensor,
    *,
    target: float = 1.0,
    others: float = 8.0,
    temperature: float = 1.0,
    counted: Tensor | None = None,
) -> Tensor:
    """The divergence in two parts: of the target's probability, and of those of the other classes among themselves.

    With ``p`` the probability of the target and ``q`` those of the other classes given that it is none of it,
    ``KL(teacher || student) = KL(p) + (1 - p_teacher) * KL(q)``; here both parts have weights of their own.

    Args:
        student_logits: Logits that learn, shape ``(..., classes)`` of three classes or more.
        teacher_logits: Logits to learn from, same shape.
        targets: The classes, integers of the leading dimensions' shape; where nothing counts they may be anything.
        target: The paper's alpha.
        others: The paper's beta, 1 to 10 there, 8 for most nets on CIFAR-100.
        temperature: ``T``; the divergence is multiplied by its square.
        counted: Which samples count, booleans of the leading dimensions' shape; all of them by default.

    Returns:
        The mean over all that counts, a scalar in nats.

    Raises:
        UsageError: There are fewer than three classes.
    """
    student, teacher = _raised(student_logits, teacher_logits)
    if student.shape[-1] < 3:
        raise UsageError(f"decoupled distillation needs three classes or more; got logits {tuple(student.shape)}")
    at = targets.clamp(0, student.shape[-1] - 1).unsqueeze(-1)

    def parts(logits: Tensor) -> tuple[Tensor, Tensor]:
        logs = log_probabilities(logits, temperature)
        without = logs.scatter(-1, at, float("-inf"))
        whole = without.logsumexp(-1, keepdim=True)
        return torch.cat([logs.gather(-1, at), whole], -1), (without - whole).scatter(-1, at, 0.0)

    (of_target, rest), (taught, taught_rest) = parts(student), parts(teacher)
    first = (taught.exp() * (taught - of_target)).sum(-1)
    second = (taught_rest.exp() * (taught_rest - rest)).sum(-1)
    return mean_of_counted(target * first + others * second, counted) * temperature**2


def squared_logits(student_logits: Tensor, teacher_logits: Tensor, *, counted: Tensor | None = None) -> Tensor:
    """The squared difference of logits, the mean over the classes and over all that counts.

    Args:
        student_logits: Logits that learn, shape ``(..., classes)``.
        teacher_logits: Logits to learn from, same shape.
        counted: Which samples count, booleans of the leading dimensions' shape; all of them by default.
    """
    student, teacher = _raised(student_logits, teacher_logits)
    return mean_of_counted((student - teacher).square().mean(-1), counted)


def _raised(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(torch.float32, torch.promote_types(student.dtype, teacher.dtype))
    return student.to(dtype), teacher.detach().to(dtype)
