"""Lightning Fabric, which knows of devices, number formats and other processes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from stimulative.config import Recipe
from stimulative.errors import UsageError
from stimulative.training.loggers import loggers_of


def launched(recipe: Recipe, out: Path, first_step: int) -> Any:
    """Lightning Fabric as a recipe says, launched."""
    from lightning.fabric import Fabric
    from lightning.fabric.accelerators.cpu import CPUAccelerator

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
    cores = os.cpu_count() or 1
    if settings.devices > cores and isinstance(fabric.accelerator, CPUAccelerator):
        raise UsageError(
            f"training.devices: on the CPU each is a process that trains, one for each of the {cores} cores at most, "
            f"got {settings.devices}"
        )
    fabric.launch()
    return fabric
