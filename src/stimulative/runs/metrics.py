"""``metrics.csv``: the log of a run, a row an epoch."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from stimulative.files import write_text


@dataclass(frozen=True)
class Epoch:
    """What one epoch brought; None where a file of an older version, or of other hands, does not say.

    Args:
        epoch: Its number, from 1.
        step: Optimiser steps that were taken by its end.
        lr: The learning rate of the first group of parameters at its end.
        balance: The weight of the subnets' term at its end; 0 for methods without one.
        loss: The mean loss of its batches.
        main_ce: The mean cross-entropy of the main net.
        subnet_kl: The mean divergence of the subnets, also where their sum enters the loss.
        auxiliary: The mean loss of auxiliary heads.
        train_top1: The main net's accuracy on what was trained on, in percent.
        validation_top1: Its accuracy on the validation part, in percent.
        validation_loss: Its cross-entropy there, in nats.
        images_per_second: Images, or sequences, trained on per second.
        train_seconds: How long training has taken so far, without validation.
    """

    epoch: int
    step: int | None
    lr: float | None
    balance: float | None
    loss: float | None
    main_ce: float | None
    subnet_kl: float | None
    auxiliary: float | None
    train_top1: float | None
    validation_top1: float | None
    validation_loss: float | None
    images_per_second: float | None
    train_seconds: float | None

    @classmethod
    def from_row(cls, row: Mapping[str, str]) -> Epoch:
        """Read a row of the file.

        Raises:
            KeyError: If a column is missing.
            ValueError: If it holds something else than numbers.
        """
        step = row["step"]
        numbers = {name: float(row[name]) if row[name] else None for name in COLUMNS if name not in ("epoch", "step")}
        return cls(epoch=int(row["epoch"]), step=int(step) if step else None, **numbers)


COLUMNS: tuple[str, ...] = tuple(field.name for field in fields(Epoch))


class MetricsFile:
    """metrics.csv: a row an epoch. Opening it drops the rows after ``epochs`` (of a run that died and goes on)."""

    def __init__(self, path: Path, epochs: int) -> None:
        self.path = path
        rows = [row for row in read_metrics(path) if int(row["epoch"]) <= epochs] if path.exists() else []
        lines = [",".join(COLUMNS), *(",".join(row[column] for column in COLUMNS) for row in rows)]
        write_text(path, "\n".join(lines) + "\n")

    def add(self, epoch: Epoch) -> None:
        """Append a row."""
        with self.path.open("a", encoding="utf-8", newline="") as file:
            csv.DictWriter(file, list(COLUMNS), lineterminator="\n").writerow(
                {key: f"{value:.6g}" if isinstance(value, float) else value for key, value in vars(epoch).items()}
            )


def read_metrics(path: Path) -> list[dict[str, str]]:
    """The whole rows of a metrics.csv, as they are; one that a crash cut short is left out."""
    with path.open(encoding="utf-8", newline="") as file:
        read = [{"auxiliary": "0"} | row for row in csv.DictReader(file)]  # older files lack this column
    rows = [{column: row[column] for column in COLUMNS if row.get(column) is not None} for row in read]
    return [row for row in rows if len(row) == len(COLUMNS) and row["epoch"].isdigit()]
