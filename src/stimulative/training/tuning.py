"""How a device computes: number formats and kernels that a recipe may choose, beside what is computed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from stimulative.config import Recipe

_MIXED = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


@contextmanager
def tuned(recipe: Recipe, device: torch.device) -> Iterator[None]:
    """A context in which a GPU computes as a recipe says; behind it PyTorch's own choices are back.

    Args:
        recipe: The recipe.
        device: What is computed on; only a GPU of NVIDIA has something to choose.
    """
    if device.type != "cuda":
        yield
        return
    settings = recipe.training
    cudnn: Any = torch.backends.cudnn
    before = torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.benchmark
    torch.set_float32_matmul_precision("high" if settings.tf32 else "highest")
    cudnn.allow_tf32, cudnn.benchmark = settings.tf32, settings.cudnn_benchmark
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        cudnn.allow_tf32, cudnn.benchmark = before[1:]


def measuring_as(recipe: Recipe, device: torch.device) -> AbstractContextManager[object]:
    """A context in which nets are measured and recalibrated in the number format that the recipe asks for.

    Args:
        recipe: The recipe.
        device: What is computed on; on a CPU 16-mixed is bf16-mixed, as in training.
    """
    dtype = mixed_format(recipe, device)
    if dtype is None or not recipe.evaluation.autocast:
        return nullcontext()
    return torch.autocast(device.type, dtype)


def mixed_format(recipe: Recipe, device: torch.device) -> torch.dtype | None:
    """The format of 16 bits that a recipe mixes with 32; None if it mixes none."""
    dtype = _MIXED.get(recipe.training.precision)
    return torch.bfloat16 if dtype is not None and device.type == "cpu" else dtype
