"""What counts of a batch, read from the labels that a model of Transformers is called with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from stimulative.errors import UsageError
from stimulative.objectives import IGNORED
from stimulative.tasks import Task

_TRANSCRIPTS = "ForCTC"  # their labels are of tokens that are said at no known place


def known_targets(task: Task, model: nn.Module, inputs: Mapping[str, Any], outputs: Any) -> Any:
    """The labels that a model is called with, as the task takes targets; None where they say nothing of what counts.

    Args:
        task: What the model is for.
        model: The model that is called.
        inputs: Its keyword arguments, ``labels`` or ``shift_labels`` among them.
        outputs: Its outputs, as the task finds them.
    """
    labels = shifted_labels(model, inputs)
    if not isinstance(labels, Tensor) or type(model).__name__.endswith(_TRANSCRIPTS):
        return None
    try:
        task.check(outputs, labels, values=False)
    except UsageError:
        return None  # the model's own loss knows what to make of them
    return labels


def shifted_labels(model: nn.Module, inputs: Mapping[str, Any]) -> Any:
    """The labels as the model's loss takes them: a causal language model gets the tokens themselves and shifts them.

    Args:
        model: The model that is called.
        inputs: Its keyword arguments.

    Returns:
        Of a causal language model the token that follows each position, shape ``(B, positions)``; else the labels.
    """
    shifted, labels = inputs.get("shift_labels"), inputs.get("labels")
    if isinstance(shifted, Tensor):
        return shifted
    if isinstance(labels, Tensor) and labels.dim() == 2 and not labels.is_floating_point() and _shifts(model):
        return F.pad(labels[:, 1:], (0, 1), value=IGNORED)
    return labels


def _shifts(model: nn.Module) -> bool:
    """Whether a model predicts the next token, told by the loss that Transformers gives it."""
    decodes = getattr(getattr(model, "config", None), "is_encoder_decoder", False)  # its labels are shifted already
    return not decodes and getattr(getattr(model, "loss_function", None), "__name__", "") == "ForCausalLMLoss"
