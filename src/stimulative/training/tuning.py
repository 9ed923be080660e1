"""How a device computes: number formats and kernels that a recipe may choose, beside what is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
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
    cudnn: Any = torch.backends.cudnn
    before, put_back = cudnn.benchmark, _set_tf32(recipe.training.tf32)
    cudnn.benchmark = recipe.training.cudnn_benchmark
    try:
        yield
    finally:
        cudnn.benchmark = before
        put_back()


def _set_tf32(wanted: bool) -> Callable[[], None]:
    """Switch TF32 on or off, by those of PyTorch's switches that have been used so far: they cannot be mixed.

    Args:
        wanted: Whether it is to be on.

    Returns:
        What puts the switches back.
    """
    cudnn: Any = torch.backends.cudnn
    try:
        before = torch.get_float32_matmul_precision(), cudnn.allow_tf32
    except RuntimeError:  # somebody has used the new ones
        switches: list[Any] = [torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn]
        values = [one.fp32_precision for one in switches]

        def put(several: Iterable[str]) -> None:
            for one, value in zip(switches, several, strict=True):
                one.fp32_precision = value

        put(["tf32" if wanted else "ieee"] * len(switches))
        return partial(put, values)

    def put_old(matmul: str, allow: bool) -> None:
        torch.set_float32_matmul_precision(matmul)
        cudnn.allow_tf32 = allow

    put_old("high" if wanted else "highest", wanted)
    return partial(put_old, *before)


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
