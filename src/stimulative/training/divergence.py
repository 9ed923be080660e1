"""Training that breaks: losses and parameters that are no longer finite numbers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor


class Diverged(RuntimeError):
    """The loss is no longer a finite number."""


def check_losses(total: Tensor, epochs: int, step: int, checkpoint: Path) -> None:
    """Make sure that the sums of an epoch's losses are finite; this waits for the device.

    Args:
        total: The sums so far.
        epochs: Epochs that are done.
        step: The number of the last batch.
        checkpoint: The last checkpoint.

    Raises:
        Diverged: If they are not.
    """
    if not bool(torch.isfinite(total).all()):
        raise Diverged(
            f"the loss is no longer a finite number, in epoch {epochs + 1} at step {step} or shortly before; "
            f"{checkpoint} is from before, after epoch {epochs}. Try a lower optimizer.lr, a longer "
            "schedule.warmup_epochs, optimizer.clip_norm 1.0, or a lower method.balance"
        )


def check_parameters(parameters: Iterable[Tensor], epochs: int, checkpoint: Path) -> None:
    """Make sure that all parameters are finite.

    Args:
        parameters: The parameters.
        epochs: Epochs that are done.
        checkpoint: The last checkpoint.

    Raises:
        Diverged: If one is not.
    """
    finite = [torch.isfinite(parameter).all() for parameter in parameters]
    if not bool(torch.stack(finite).all()):
        raise Diverged(
            f"a parameter is no longer a finite number after epoch {epochs}; {checkpoint} is from before. Try a lower "
            "optimizer.lr, optimizer.clip_norm 1.0, or a lower method.balance"
        )
