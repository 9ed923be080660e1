"""The report: everything that some directories have to show, on one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stimulative import files
from stimulative.errors import UsageError
from stimulative.report.contents import Source, read_source
from stimulative.report.figure import save_all
from stimulative.report.headline import headline
from stimulative.report.page import render
from stimulative.report.provenance import provenance
from stimulative.report.sections import groups_in, sections_of
from stimulative.report.words import subject_of

REPORT = "report.html"
FIGURES = "figures"


def write_report(directories: Sequence[str | Path], out: str | Path | None = None, title: str | None = None) -> Path:
    """Write ``report.html``, and each of its pictures as PNG, SVG and CSV into ``figures/`` beside it.

    The same files of runs give the same page, byte by byte.

    Args:
        directories: Run directories, directories that hold some, and those of comparisons, studies of loafing,
            matrices, sweeps and destructions, in any mix.
        out: Where to; by default the directory where there is only one, else ``report``.
        title: The title of the page.

    Returns:
        The path of the page.

    Raises:
        UsageError: If a directory holds nothing to report, or a file in it is damaged.
    """
    if not directories:
        raise UsageError("no directory given; name at least one run or study")
    sources = [read_source(files.check_path(Path(directory))) for directory in directories]
    out = Path(out) if out is not None else sources[0].directory if len(sources) == 1 else Path("report")
    groups = groups_in(sources)
    sections = sections_of(sources, groups)
    files.make_directory(files.inside(out, FIGURES))
    page = render(
        title=title or _title(sources),
        introduction=f"Drawn from the files of {', '.join(str(source.directory) for source in sources)}.",
        headlines=[headline(group) for group in groups],
        sections=sections,
        provenance=provenance(groups, sources),
        notes=[
            f"Not in it, because they have not finished: {', '.join(source.unfinished)} in {source.directory}."
            for source in sources
            if source.unfinished
        ],
        folder=FIGURES,
    )
    save_all([figure for section in sections for figure in section.figures], out / FIGURES)
    files.write_text(out / REPORT, page)
    return out / REPORT


def _title(sources: Sequence[Source]) -> str:
    """What the report is about, in as few words as it takes."""
    studied = [one.subject for source in sources for one in source.studies]
    trained = [subject_of([run.summary]) for source in sources if not source.studies for run in source.runs]
    subjects = list(dict.fromkeys([*studied, *trained]))
    return f"Subnets of {' and '.join(subjects)}" if len(subjects) <= 2 else f"Subnets of {len(subjects)} studies"
