"""Checkpoints: everything that a run needs to go on as if it had never stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from stimulative.errors import UsageError
from stimulative.training.files import replacing


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint, whole or not at all."""
    with replacing(path) as temporary:
        torch.save(state, temporary)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint; only tensors and plain values, never code.

    Raises:
        UsageError: If it is damaged.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UsageError(
            f"{path} cannot be read as a checkpoint ({type(error).__name__}): it is damaged. Remove the run, or choose "
            "another directory with --out, to start again"
        ) from error
