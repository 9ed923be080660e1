"""Lightning Fabric, which knows of devices, number formats and other processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stimulative.config import Recipe
from stimulative.errors import UsageError
from stimulative.training.loggers import loggers_of


def launched(recipe: Recipe, out: Path, first_step: int) -> Any:
    """Lightning Fabric as a recipe says, launched."""
    from lightning.fabric import Fabric

    settings = recipe.training
    loggers = loggers_of(settings.loggers, out, first_step)
    try:
        fabric = Fabric(
            accelerator=settings.device, devices=settings.devices, precision=settings.precision, loggers=loggers
        )
    except (RuntimeError, ValueError, TypeError) as error:  # Lightning's own are of these kinds
        raise UsageError(
            f"training.device, devices, precision: got {settings.device}, {settings.devices}, "
            f"{settings.precision}, which this machine cannot do: {error}"
        ) from error
    fabric.launch()
    return fabric
