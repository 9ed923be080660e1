"""Lightning's loggers, by name or by class."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from stimulative.errors import UsageError
from stimulative.extension import imported
from stimulative.files import inside

_LIGHTNING = {
    "tensorboard": "TensorBoardLogger",
    "wandb": "WandbLogger",
    "mlflow": "MLFlowLogger",
    "comet": "CometLogger",
    "neptune": "NeptuneLogger",
}


_FOLDERS = "tensorboard", "wandb", "mlruns", "lightning_logs", ".neptune", ".cometml-runs"
"""Where they write in a run directory."""


def loggers_of(names: Sequence[str], out: Path, first_step: int) -> list[Any]:
    """Lightning's loggers by name (``tensorboard``, ``wandb``, ...) or by class (``package.module:Class``).

    Raises:
        UsageError: If a logger or what it needs is not installed.
    """
    loggers = []
    for name in names:
        if name == "csv":
            continue  # metrics.csv is always written
        for folder in _FOLDERS:
            inside(out, folder)
        try:
            if name == "tensorboard":
                from lightning.fabric.loggers.tensorboard import TensorBoardLogger

                loggers.append(TensorBoardLogger(out, name="tensorboard", version="", purge_step=first_step))
                continue
            if name in _LIGHTNING:
                kind = getattr(importlib.import_module("lightning.pytorch.loggers"), _LIGHTNING[name])
            else:
                kind = _own_class(name)
            loggers.append(kind(save_dir=str(out)))
        except UsageError:
            raise
        except Exception as error:  # whatever a logger's service and one's own class raise
            raise UsageError(f"training.loggers: cannot use {name!r}: {type(error).__name__}: {error}") from error
    return loggers


def _own_class(name: str) -> Callable[..., Any]:
    """The class of a logger of the user's own."""
    from lightning.fabric.loggers.logger import Logger

    kind = imported(name, "logger", "Class", "a class of loggers as Lightning has them")
    if not (isinstance(kind, type) and issubclass(kind, Logger)):
        raise UsageError(
            f"training.loggers: {name!r} is no logger: it must be a subclass of lightning.fabric.loggers.Logger; got "
            f"{kind!r}"
        )
    return kind
