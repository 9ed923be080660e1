"""The records of a destruction: what is left of networks whose blocks are deleted and swapped."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

from stimulative import files
from stimulative.data import View
from stimulative.records import Record, absent
from stimulative.runs import Scored
from stimulative.studies.study import Study

_TABLES = ("single", "deletions", "swaps", "delete_rows", "swap_rows")


@dataclass(frozen=True, kw_only=True)
class SingleRow(Scored):
    """A net without one block; accuracy in percent, loss in nats."""

    run: str
    recalibrated: bool
    stage: int
    block: int
    name: str
    subnet: str
    quality: float
    loss: float
    perplexity: float | None = absent()
    measure: str = "top1"


@dataclass(frozen=True, kw_only=True)
class DeletedRow(Scored):
    """A net without k random blocks, the draw of that number."""

    run: str
    recalibrated: bool
    k: int
    draw: int
    subnet: str
    quality: float
    loss: float
    perplexity: float | None = absent()
    measure: str = "top1"


@dataclass(frozen=True, kw_only=True)
class SwappedRow(Scored):
    """A net after k random swaps; ``tau`` is Kendall's rank correlation of its order with the original one."""

    run: str
    recalibrated: bool
    k: int
    draw: int
    subnet: str
    tau: float
    quality: float
    loss: float
    perplexity: float | None = absent()
    measure: str = "top1"


@dataclass(frozen=True, kw_only=True)
class DrawsRow(Record):
    """The nets of one k together; ``std`` is the population's, ``tau`` the mean over swapped nets."""

    run: str
    recalibrated: bool
    k: int
    draws: int
    exhaustive: bool = False
    mean: float
    std: float
    min: float
    max: float
    perplexity: float | None = absent()
    tau: float | None = absent()


@dataclass(frozen=True, kw_only=True)
class DestroyedRun(Record):
    """A run whose net was destroyed, and what it was measured on.

    Args:
        run: What it is called.
        directory: Where it is.
        model: Its model.
        data: Its data set.
        method: How it was trained; None for weights that somebody else has trained.
        main: The accuracy of its whole main net, in percent.
        main_perplexity: Its perplexity, of text.
        images: Test images that were measured on.
        test_images: How many there are.
        calibration: How these images were prepared: as for training or as for evaluation; None without statistics.
        calibration_images: Training images that statistics were estimated on; 0 without any.
        notes: What there is to say of it.
    """

    run: str
    directory: str | None = None
    model: str
    data: str
    method: str | None
    main: float
    main_perplexity: float | None = absent()
    images: int | None = None
    test_images: int | None = None
    calibration: View | None = absent()
    calibration_images: int | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Destruction(Study):
    """What is left of nets whose blocks are deleted and swapped.

    Args:
        images: Test images that all runs were measured on; None where their numbers differ.
        test_images: How many there are; None where their numbers differ.
        calibration: How the training images were prepared that statistics were estimated on, for all runs.
        calibration_images: Training images that statistics were estimated on; 0 without any.
        draws: Nets drawn for each k.
        seed: The seed of the draws.
        runs: The runs.
        single: Nets without each single block.
        deletions: Nets without k random blocks.
        swaps: Nets after k random swaps.
        delete_rows: The former by k.
        swap_rows: The latter by k.
    """

    NAME = "destruction"

    images: int | None
    test_images: int | None = None
    calibration: View | None = absent()
    calibration_images: int | None
    draws: int
    seed: int
    runs: tuple[DestroyedRun, ...]
    single: tuple[SingleRow, ...]
    deletions: tuple[DeletedRow, ...] = ()
    swaps: tuple[SwappedRow, ...]
    delete_rows: tuple[DrawsRow, ...]
    swap_rows: tuple[DrawsRow, ...]

    def write_tables(self, directory: Path) -> None:
        """Write the nets and their scores as ``single.csv``, ``deletions.csv`` and ``swaps.csv``."""
        files.write_text(directory / "single.csv", _csv_text(SingleRow, self.single))
        files.write_text(directory / "deletions.csv", _csv_text(DeletedRow, self.deletions))
        files.write_text(directory / "swaps.csv", _csv_text(SwappedRow, self.swaps))


@dataclass(frozen=True, kw_only=True)
class DestroyedNet(Record):
    """What was measured of one run; its file does not say what the run is called, which hangs on the others.

    Args:
        run: The run.
        single: As in ``Destruction``, and so are the others.
        deletions: See there.
        swaps: See there.
        delete_rows: See there.
        swap_rows: See there.
    """

    run: DestroyedRun
    single: tuple[SingleRow, ...]
    deletions: tuple[DeletedRow, ...]
    swaps: tuple[SwappedRow, ...]
    delete_rows: tuple[DrawsRow, ...]
    swap_rows: tuple[DrawsRow, ...]

    def called(self, label: str, directory: Path) -> DestroyedNet:
        """The same, of a run that is called so, in that directory."""
        tables = {table: tuple(replace(row, run=label) for row in getattr(self, table)) for table in _TABLES}
        return DestroyedNet(run=replace(self.run, run=label, directory=str(directory)), **tables)

    def to_mapping(self) -> dict[str, Any]:
        """As it stands in the file: what is said of the run, and the tables."""
        mapping = super().to_mapping()
        run = {key: value for key, value in mapping["run"].items() if key not in ("run", "directory")}
        tables = {table: [{k: v for k, v in row.items() if k != "run"} for row in mapping[table]] for table in _TABLES}
        return {**run, **tables}

    @classmethod
    def from_mapping(cls, mapping: Any) -> Self:
        """Read what was measured of a run without a name."""
        tables = {table: [{"run": "", **row} for row in mapping[table]] for table in _TABLES}
        return super().from_mapping({"run": {"run": "", **mapping}, **tables})


def _csv_text(kind: type[Record], rows: Sequence[Record]) -> str:
    """Rows as the text of a CSV file; perplexities are a column where there are some."""
    mappings = [row.to_mapping() for row in rows]
    measure = next((getattr(row, "measure") for row in rows if hasattr(row, "measure")), "top1")  # noqa: B009
    names = [field.name.replace("quality", measure) for field in fields(kind) if field.name != "measure"]
    text = io.StringIO()
    told = [name for name in names if name != "perplexity" or any(name in mapping for mapping in mappings)]
    writer = csv.DictWriter(text, told, lineterminator="\n")
    writer.writeheader()
    for mapping in mappings:
        rounded = {key: round(value, 6) if isinstance(value, float) else value for key, value in mapping.items()}
        writer.writerow({**rounded, "recalibrated": str(mapping["recalibrated"]).lower()})
    return text.getvalue()
