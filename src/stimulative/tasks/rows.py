"""Logits of classes in one form, whatever form a net gives them in."""

import torch
from torch import Tensor


def two_classes(logits: Tensor, dim: int = -1) -> Tensor:
    """A single logit as two, that of the first class being 0; others as they are."""
    return torch.cat([torch.zeros_like(logits), logits], dim) if logits.shape[dim] == 1 else logits
