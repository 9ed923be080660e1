"""Whether two models compute the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from stimulative.residual import is_cache, tensors_in

_TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5}
_COARSE = 2e-2  # half precision
_CACHES = "past_key_values", "cache_params"


def compared_outputs(output: Any) -> list[Tensor]:
    """The tensors of an output, without the caches that a model of Transformers may add."""
    if isinstance(output, Mapping):
        output = {key: value for key, value in output.items() if key not in _CACHES and not is_cache(value)}
    return tensors_in(output)


def unlike(expected: list[Tensor], got: list[Tensor]) -> str | None:
    """In what outputs differ beyond rounding; None if they do not."""
    shapes = [[tuple(tensor.shape) for tensor in tensors] for tensors in (expected, got)]
    if shapes[0] != shapes[1]:
        return f"it returns tensors of shape {shapes[1]} instead of {shapes[0]}"
    for wanted, own in zip(expected, got, strict=True):
        if not wanted.is_floating_point():
            if not torch.equal(wanted, own):
                return "it returns other numbers"
            continue
        error = float((wanted - own).abs().amax()) if wanted.numel() else 0.0
        largest = float(wanted.abs().amax()) if wanted.numel() else 0.0
        if not error <= _TOLERANCES.get(wanted.dtype, _COARSE) * max(largest, 1e-6):
            return f"its outputs differ by up to {error:.3g}, where the largest is {largest:.3g}"
    return None
