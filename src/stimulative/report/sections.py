"""Which figures a report has, and under which headings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from stimulative.report.contents import Source
from stimulative.report.family_pictures import family_figures
from stimulative.report.figure import Figure
from stimulative.report.run_groups import Group, groups_of
from stimulative.report.trajectories import trajectory_figures

_POINTS = 1500
"""So many points each chart of runs draws at most, shared by the groups of runs of a page."""


@dataclass(frozen=True)
class Section:
    """Figures under a heading."""

    title: str
    figures: list[Figure]


def groups_in(sources: Sequence[Source]) -> list[Group]:
    """The runs of sources that have pictures of their own: those of each study together, and all others together."""
    groups = groups_of([run for source in sources if not source.studies for run in source.runs])
    for source in sources:
        if source.studies and all(one.kind.runs_apart for one in source.studies):
            first = source.studies[0]
            groups += groups_of(source.runs, first.heading, first.names)
    return groups


def sections_of(sources: Sequence[Source], groups: Sequence[Group]) -> list[Section]:
    """All figures of sources and of the runs in them; figures about the same are under the same heading."""
    figures: dict[str, list[Figure]] = {}
    for source in sources:
        for one in source.studies:
            figures.setdefault(f"{one.heading}: {one.subject}", []).extend(one.figures())
    points = _POINTS // max(1, len(groups))
    for group in groups:
        own = [*family_figures(group, points), *trajectory_figures(group, points)]
        figures.setdefault(group.title, []).extend(own)
    seen: Counter[str] = Counter()
    return [Section(title, [_numbered(one, seen) for one in under]) for title, under in figures.items() if under]


def _numbered(figure: Figure, seen: Counter[str]) -> Figure:
    """The figure, called NAME-2 if it is the second one of its name."""
    seen[figure.name] += 1
    return figure if seen[figure.name] == 1 else replace(figure, name=f"{figure.name}-{seen[figure.name]}")
