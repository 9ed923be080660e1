"""``metrics.csv``: the log of a run, a row an epoch."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from stimulative.errors import UsageError
from stimulative.files import regular, write_text
from stimulative.tasks import KEYS

_EPOCH = re.compile("[0-9]{1,9}")
_TESTED = "test_quality"


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
        train_quality: How good the main net was on what was trained on, where single batches tell; of classes its
            accuracy in percent.
        validation_quality: How good it is on the validation part, as ``Score`` has it.
        validation_loss: Its loss there.
        images_per_second: Images, or sequences, trained on per second.
        train_seconds: How long training has taken so far, without validation.
        test_quality: How good it is on the test split, where that is measured after each epoch; its column,
            ``test_top1`` or as the measure is called, is there only then.
        measure: What the quality is; the columns are called ``train_top1`` and ``validation_top1`` where it is that.
    """

    epoch: int
    step: int | None
    lr: float | None
    balance: float | None
    loss: float | None
    main_ce: float | None
    subnet_kl: float | None
    auxiliary: float | None
    train_quality: float | None
    validation_quality: float | None
    validation_loss: float | None
    images_per_second: float | None
    train_seconds: float | None
    test_quality: float | None = None
    measure: str = "top1"

    @classmethod
    def from_row(cls, row: Mapping[str, str]) -> Epoch:
        """Read a row of the file.

        Raises:
            KeyError: If a column is missing.
            ValueError: If it holds something else than numbers.
        """
        step, measure = row["step"], measure_of(row)
        columns = columns_of(measure, tested=is_tested(row))
        columns = {name: column for name, column in columns.items() if name not in ("epoch", "step")}
        numbers = {name: float(row[column]) if row[column] else None for name, column in columns.items()}
        return cls(epoch=int(row["epoch"]), step=int(step) if step else None, measure=measure, **numbers)


def columns_of(measure: str, *, tested: bool = False) -> dict[str, str]:
    """What the fields of an epoch are called in the file.

    Args:
        measure: What its quality is.
        tested: Whether the main net is measured on the test split after each epoch.
    """
    left_out = {"measure"} if tested else {"measure", _TESTED}
    names = [field.name for field in fields(Epoch) if field.name not in left_out]
    return {name: name.replace("quality", measure) for name in names}


def measure_of(row: Collection[str]) -> str:
    """The measure that the columns of a file are of."""
    return next((key for key in KEYS if f"validation_{key}" in row), KEYS[0])


def is_tested(row: Collection[str]) -> bool:
    """Whether a file with these columns has the test split's."""
    return _TESTED.replace("quality", measure_of(row)) in row


class MetricsFile:
    """metrics.csv: a row an epoch. Opening it drops the rows after ``epochs`` (of a run that died and goes on).

    Args:
        path: The file.
        epochs: Epochs that are done.
        measure: What the quality of nets is called.
        tested: Whether the main net is measured on the test split after each epoch.
        text: What the file held when these were done, whatever has become of it; None takes the file as it is.

    Attributes:
        text: What the file holds.
    """

    def __init__(
        self, path: Path, epochs: int, measure: str = "top1", *, tested: bool = False, text: str | None = None
    ) -> None:
        self.path = path
        self.columns = columns_of(measure, tested=tested)
        found: list[dict[str, str]] = []
        if text is not None:
            found = rows_of_log(text)
        elif path.exists():
            found = read_metrics(path)
        rows = [row for row in found if int(row["epoch"]) <= epochs]
        columns = self.columns.values()
        lines = [",".join(columns), *(",".join(row[column] for column in columns) for row in rows)]
        self.text = "\n".join(lines) + "\n"
        write_text(path, self.text)

    def add(self, epoch: Epoch) -> None:
        """Append a row.

        Raises:
            UsageError: If the disk refuses.
        """
        values = {column: getattr(epoch, name) for name, column in self.columns.items()}
        row = [f"{value:.6g}" if isinstance(value, float) else value for value in values.values()]
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(row)
        self.text += line.getvalue()
        try:
            with self.path.open("a", encoding="utf-8", newline="") as file:
                file.write(line.getvalue())
        except OSError as error:
            raise UsageError(f"cannot write {self.path}: {error.strerror}; the last checkpoint is whole") from error


def read_metrics(path: Path) -> list[dict[str, str]]:
    """The whole rows of a metrics.csv, as they are; one that a crash cut short is left out.

    Raises:
        UsageError: If it cannot be read.
    """
    try:
        with regular(path).open(encoding="utf-8", newline="") as file:
            return _rows_of(file)
    except (OSError, ValueError, csv.Error) as error:
        raise UsageError(
            f"{path} cannot be read as the log of a run: {error}; remove it, and it begins anew"
        ) from error


def rows_of_log(text: str) -> list[dict[str, str]]:
    """The rows of a log that is given as a text.

    Raises:
        ValueError: If it is none.
    """
    try:
        return _rows_of(text.splitlines())
    except csv.Error as error:
        raise ValueError(f"its log cannot be read: {error}") from error


def _rows_of(lines: Iterable[str]) -> list[dict[str, str]]:
    read = [{"auxiliary": "0"} | row for row in csv.DictReader(lines)]  # older files lack this column
    first = read[0] if read else ()
    columns = columns_of(measure_of(first), tested=is_tested(first)).values()
    rows = [{column: row[column] for column in columns if row.get(column) is not None} for row in read]
    return [row for row in rows if len(row) == len(columns) and _EPOCH.fullmatch(row["epoch"])]
