"""The terms of self-distillation, as functions of logits and features.

Source: Zhang et al., "Be Your Own Teacher: Improve the Performance of Convolutional Neural Networks via Self
Distillation", ICCV 2019, arXiv 1905.08094. A shallow classifier ``i`` learns from the labels and from the deepest one,
``C``, whose logits and features are fixed targets:

    (1 - alpha) * CE(z_i, y) + alpha * KL(softmax(z_C / T) || softmax(z_i / T)) + hint_weight * ||F_i - F_C||.

As in the paper and in the authors' code, the divergence is *not* multiplied by ``T^2`` (``kl_divergence`` is).
"""

import torch
from torch import Tensor

from stimulative.errors import UsageError
from stimulative.objectives.kl import cross_entropy, kl_divergence


def shallow_loss(
    shallow_logits: Tensor,
    deepest_logits: Tensor,
    targets: Tensor,
    *,
    alpha: float,
    temperature: float,
    label_smoothing: float = 0.0,
) -> Tensor:
    """What a shallow classifier learns: the labels, and the deepest classifier's distribution.

    Args:
        shallow_logits: Logits that learn, shape ``(B, classes)``.
        deepest_logits: Logits to learn from, same shape; no gradient reaches them.
        targets: Class indices of shape ``(B,)`` or probabilities of shape ``(B, classes)``.
        alpha: Share of the divergence, 0 to 1; the rest is cross-entropy.
        temperature: Temperature of both distributions in the divergence.
        label_smoothing: Label smoothing of the cross-entropy.

    Returns:
        A scalar in nats, float32 or, when an input is float64, float64.

    Raises:
        UsageError: Shapes or types do not fit, alpha is no share, or the temperature is not positive.
    """
    if not 0 <= alpha <= 1:
        raise UsageError(f"alpha is a share, 0 to 1; got {alpha}")
    labels = cross_entropy(shallow_logits, targets, label_smoothing=label_smoothing)
    divergence = kl_divergence(shallow_logits, deepest_logits, temperature=temperature) / temperature**2
    return (1 - alpha) * labels + alpha * divergence


def hint_loss(features: Tensor, deepest_features: Tensor) -> Tensor:
    """How far shallow features are from the deepest ones: the Euclidean norm of the difference, over the whole batch.

    This is what the authors' code has (``torch.dist``); the paper writes its square.

    Args:
        features: Features that learn, shape ``(B, channels)``.
        deepest_features: Features to learn from, same shape; no gradient reaches them.

    Returns:
        A scalar, float32 or, when an input is float64, float64. Where it is 0 its gradient is, too.

    Raises:
        UsageError: The shapes differ, or there is nothing in them.
    """
    if features.shape != deepest_features.shape or features.dim() < 2 or not features.numel():
        raise UsageError(
            "features and those that they learn from must have the same shape (batch, channels); got "
            f"{tuple(features.shape)} and {tuple(deepest_features.shape)}"
        )
    dtype = torch.promote_types(torch.float32, torch.promote_types(features.dtype, deepest_features.dtype))
    return torch.linalg.vector_norm(features.to(dtype) - deepest_features.detach().to(dtype))
