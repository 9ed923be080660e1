"""Lightning's loggers, by name or by class."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stimulative.errors import UsageError

_LIGHTNING = {
    "tensorboard": "TensorBoardLogger",
    "wandb": "WandbLogger",
    "mlflow": "MLFlowLogger",
    "comet": "CometLogger",
    "neptune": "NeptuneLogger",
}


def loggers_of(names: Sequence[str], out: Path, first_step: int) -> list[Any]:
    """Lightning's loggers by name (``tensorboard``, ``wandb``, ...) or by class (``package.module:Class``).

    Raises:
        UsageError: If a logger or what it needs is not installed.
    """
    loggers = []
    for name in names:
        if name == "csv":
            continue  # metrics.csv is always written
        try:
            if name == "tensorboard":
                from lightning.fabric.loggers.tensorboard import TensorBoardLogger

                loggers.append(TensorBoardLogger(out, name="tensorboard", version="", purge_step=first_step))
                continue
            module, _, attribute = name.partition(":")
            if name in _LIGHTNING:
                module, attribute = "lightning.pytorch.loggers", _LIGHTNING[name]
            kind = getattr(importlib.import_module(module), attribute)
            loggers.append(kind(save_dir=str(out)))
        except (ImportError, AttributeError) as error:
            raise UsageError(f"training.loggers: cannot use {name!r}: {error}") from error
    return loggers
