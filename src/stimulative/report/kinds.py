"""The kinds of studies, and what a report makes of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from stimulative.report.comparison import comparison_figures, names_of
from stimulative.report.destruction import destruction_figures
from stimulative.report.figure import Figure
from stimulative.report.loafing import loafing_figures
from stimulative.report.matrix import matrix_figures
from stimulative.report.sweep import sweep_figures
from stimulative.report.words import Trained, subject_of
from stimulative.studies import Comparison, Destruction, Loafing, Matrix, Study, Sweep

S = TypeVar("S", bound=Study)


def _one_subject(study: Any) -> Iterable[Trained]:
    return [study]


def _no_names(study: Study, directory: Path) -> Mapping[Path, str]:
    return {}


@dataclass(frozen=True)
class Kind(Generic[S]):
    """One kind of study.

    Args:
        record: What its file is read as.
        heading: What its figures stand under; fields of the study in braces.
        figures: The figures of a study and its directory; none where no run has finished.
        trained: What has a model and a data set; by default the study itself.
        names: What runs are called, by directory; by default as always.
        runs_apart: Whether its runs mean something one by one, and so have figures of their own.
        told_by_runs: Whether its runs say how it was made, so that nothing is left to say of itself.
    """

    record: type[S]
    heading: str
    figures: Callable[[S, Path], list[Figure]]
    trained: Callable[[S], Iterable[Trained]] = _one_subject
    names: Callable[[S, Path], Mapping[Path, str]] = _no_names
    runs_apart: bool = True
    told_by_runs: bool = False


KINDS: tuple[Kind[Any], ...] = (
    Kind(
        Comparison,
        "Comparison",
        comparison_figures,
        trained=lambda study: [study] if study.model is not None else [run.summary for run in study.runs],
        names=names_of,
        told_by_runs=True,
    ),
    Kind(Loafing, "Loafing", lambda study, _: loafing_figures(study), runs_apart=False),
    Kind(Matrix, "Subnets inside main nets", lambda study, _: matrix_figures(study), runs_apart=False),
    Kind(Sweep, "Sweep of {key}", lambda study, _: sweep_figures(study)),
    Kind(Destruction, "Destruction", lambda study, _: destruction_figures(study), trained=lambda study: study.runs),
)
"""All kinds; a directory that holds several studies shows them in this order."""


@dataclass(frozen=True)
class ReportedStudy(Generic[S]):
    """A study as a report tells it.

    Args:
        kind: What kind it is of.
        study: What its file says.
        directory: Where that is.
    """

    kind: Kind[S]
    study: S
    directory: Path

    @property
    def heading(self) -> str:
        """What its runs were trained for."""
        return self.kind.heading.format_map(vars(self.study))

    @property
    def subject(self) -> str:
        """Which models on which data."""
        return subject_of(self.kind.trained(self.study))

    @property
    def names(self) -> Mapping[Path, str]:
        """What its runs are called, by directory."""
        return self.kind.names(self.study, self.directory)

    def figures(self) -> list[Figure]:
        """Its figures."""
        return self.kind.figures(self.study, self.directory)


def studies_of(directory: Path) -> list[ReportedStudy[Any]]:
    """The studies whose files a directory holds.

    Raises:
        UsageError: If one is damaged.
    """
    return [
        ReportedStudy(kind, kind.record.read(directory), directory)
        for kind in KINDS
        if kind.record.file(directory).exists()
    ]
