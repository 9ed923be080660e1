"""What a directory holds: a run, studies of one kind or another, or several runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stimulative.errors import UsageError
from stimulative.report.kinds import KINDS, ReportedStudy, studies_of
from stimulative.report.reported_run import ReportedRun, read_run
from stimulative.runs import RunDirectory


@dataclass(frozen=True)
class Source:
    """A directory that a report draws from.

    Args:
        directory: The directory.
        studies: The studies in it.
        runs: The finished runs in it.
        unfinished: The names of runs in it that have not finished.
    """

    directory: Path
    studies: list[ReportedStudy[Any]] = field(default_factory=list)
    runs: list[ReportedRun] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)


def read_source(directory: Path) -> Source:
    """Find out what a directory holds, and read it.

    Raises:
        UsageError: If it holds nothing that can be drawn, or a file is damaged.
    """
    if not directory.is_dir():
        raise UsageError(f"{directory} is {'not a directory' if directory.exists() else 'not there'}; {_accepted()}")
    studies = studies_of(directory)
    if not studies and RunDirectory(directory).started:
        return Source(directory, runs=[read_run(directory)])
    inside = [run for path in sorted(directory.iterdir()) if (run := RunDirectory(path)).started]
    runs = [read_run(run.path) for run in inside if run.finished]
    if not studies and not runs:
        names = sorted(path.name for path in directory.iterdir())
        found = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        raise UsageError(f"nothing to report in {directory}: it holds {found or 'nothing'}; {_accepted()}")
    return Source(directory, studies, runs, [run.path.name for run in inside if not run.finished])


def _accepted() -> str:
    studies = ", ".join(kind.record.NAME for kind in KINDS)
    return (
        "a report is made of run directories (with recipe.yaml and summary.json), of directories that hold such runs, "
        f"and of those that stimulative compare, loafing, matrix, sweep and destroy write ({studies}.json)"
    )
