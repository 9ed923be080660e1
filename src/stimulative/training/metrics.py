"""The log of a run: metrics.csv, and any of Lightning's loggers."""

from __future__ import annotations

import csv
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stimulative.errors import UsageError
from stimulative.training.files import write_text

COLUMNS: tuple[str, ...] = (
    "epoch",
    "step",
    "lr",
    "balance",
    "loss",
    "main_ce",
    "subnet_kl",
    "auxiliary",
    "train_top1",
    "validation_top1",
    "validation_loss",
    "images_per_second",
    "train_seconds",
)

_LIGHTNING = {
    "tensorboard": "TensorBoardLogger",
    "wandb": "WandbLogger",
    "mlflow": "MLFlowLogger",
    "comet": "CometLogger",
    "neptune": "NeptuneLogger",
}


class MetricsFile:
    """metrics.csv: a row an epoch. Opening it drops the rows after ``epochs`` (of a run that died and goes on)."""

    def __init__(self, path: Path, epochs: int) -> None:
        self.path = path
        rows = [row for row in read_metrics(path) if int(row["epoch"]) <= epochs] if path.exists() else []
        lines = [",".join(COLUMNS), *(",".join(row[column] for column in COLUMNS) for row in rows)]
        write_text(path, "\n".join(lines) + "\n")

    def add(self, row: dict[str, Any]) -> None:
        """Append a row."""
        with self.path.open("a", encoding="utf-8", newline="") as file:
            csv.DictWriter(file, list(COLUMNS), lineterminator="\n").writerow(
                {key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()}
            )


def read_metrics(path: Path) -> list[dict[str, str]]:
    """The whole rows of a metrics.csv; one that a crash cut short is left out."""
    with path.open(encoding="utf-8", newline="") as file:
        read = [{"auxiliary": "0"} | row for row in csv.DictReader(file)]  # older files lack this column
    rows = [{column: row[column] for column in COLUMNS if row.get(column) is not None} for row in read]
    return [row for row in rows if len(row) == len(COLUMNS) and row["epoch"].isdigit()]


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
