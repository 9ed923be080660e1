"""Which positions of sequences count, read from the labels that a model of Transformers is called with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from stimulative.objectives import IGNORED


def token_targets(model: nn.Module, inputs: Mapping[str, Any]) -> Tensor | None:
    """The target of each position of sequences, -100 where none counts; None where there are no such targets.

    A causal language model of Transformers gets the tokens themselves as labels, and shifts them in its loss.

    Args:
        model: The model that is called.
        inputs: Its keyword arguments, ``labels`` or ``shift_labels`` of shape ``(B, positions)`` among them.

    Returns:
        Class indices of shape ``(B, positions)``.
    """
    shifted, labels = inputs.get("shift_labels"), inputs.get("labels")
    if isinstance(shifted, Tensor):
        return shifted
    if not isinstance(labels, Tensor) or labels.dim() != 2 or labels.is_floating_point():
        return None
    return F.pad(labels[:, 1:], (0, 1), value=IGNORED) if _shifts(model) else labels


def _shifts(model: nn.Module) -> bool:
    """Whether a model predicts the next token, told by the loss that Transformers gives it."""
    decodes = getattr(getattr(model, "config", None), "is_encoder_decoder", False)  # its labels are shifted already
    return not decodes and getattr(getattr(model, "loss_function", None), "__name__", "") == "ForCausalLMLoss"
