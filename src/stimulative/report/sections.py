"""Which figures a report has, and under which headings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from stimulative.report.comparison import comparison_figures, names_of
from stimulative.report.contents import Source
from stimulative.report.destruction import destruction_figures
from stimulative.report.figure import Figure
from stimulative.report.loafing import loafing_figures
from stimulative.report.matrix import matrix_figures
from stimulative.report.scatter import family_figures
from stimulative.report.series import Study, studies_of
from stimulative.report.sweep import sweep_figures
from stimulative.report.trajectories import trajectory_figures

_POINTS = 1500
"""So many points each chart of runs draws at most, shared by the studies of a page."""

_KINDS = {
    "comparison": ("Comparison", comparison_figures),
    "loafing": ("Loafing", loafing_figures),
    "matrix": ("Subnets inside main nets", matrix_figures),
    "sweep": ("Sweep of {key}", sweep_figures),
    "destruction": ("Destruction", destruction_figures),
}
_ONLY_TOGETHER = {"loafing", "matrix"}
"""Studies whose runs mean something together only."""


@dataclass(frozen=True)
class Section:
    """Figures under a heading."""

    title: str
    figures: list[Figure]


def studies_in(sources: Sequence[Source]) -> list[Study]:
    """The runs of sources that have pictures of their own: those of each study together, and all others together."""
    studies = studies_of([run for source in sources if not source.studies for run in source.runs])
    for source in sources:
        if source.studies and not _ONLY_TOGETHER & source.studies.keys():
            (kind, content), *_ = source.studies.items()
            names = names_of(source.directory, content) if kind == "comparison" else None
            studies += studies_of(source.runs, _named(kind, content), names)
    return studies


def sections_of(sources: Sequence[Source], studies: Sequence[Study]) -> list[Section]:
    """All figures of sources and of the studies in them; figures about the same are under the same heading."""
    figures: dict[str, list[Figure]] = {}
    for source in sources:
        for kind, content in source.studies.items():
            title = f"{_named(kind, content)}: {subject(content)}"
            figures.setdefault(title, []).extend(_KINDS[kind][1](source.directory))
    points = _POINTS // max(1, len(studies))
    for study in studies:
        own = [*family_figures(study, points), *trajectory_figures(study, points)]
        figures.setdefault(study.title, []).extend(own)
    seen: Counter[str] = Counter()
    return [Section(title, [_numbered(one, seen) for one in under]) for title, under in figures.items() if under]


def subject(content: dict[str, Any]) -> str:
    """The model and the data of a study's file, or of its runs where they may differ."""
    of = [content] if "model" in content else content["runs"]
    return " and ".join(dict.fromkeys(f"{part['model']} on {part['data']}" for part in of))


def _named(kind: str, content: dict[str, Any]) -> str:
    return _KINDS[kind][0].format_map(content)


def _numbered(figure: Figure, seen: Counter[str]) -> Figure:
    """The figure, called NAME-2 if it is the second one of its name."""
    seen[figure.name] += 1
    return figure if seen[figure.name] == 1 else replace(figure, name=f"{figure.name}-{seen[figure.name]}")
