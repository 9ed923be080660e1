"""All pictures of the subnets of runs."""

from __future__ import annotations

from pathlib import Path

from stimulative.report.depth import depth_figure, perplexity_figure
from stimulative.report.figure import Figure, save_all
from stimulative.report.histogram import histogram_figure
from stimulative.report.reported_run import read_run
from stimulative.report.run_groups import Group, groups_of
from stimulative.report.scatter import POINTS, scatter_figure
from stimulative.report.stages import stages_figure


def draw_family(run: str | Path) -> list[Path]:
    """Draw the pictures of a run's subnets into its directory.

    Returns:
        The paths of the files.

    Raises:
        UsageError: If the directory is not that of a finished run.
    """
    directory = Path(run)
    return save_all(family_figures(groups_of([read_run(directory)])[0]), directory)


def family_figures(group: Group, points: int = POINTS) -> list[Figure]:
    """All pictures of the subnets of a group of runs; none where no subnet has been measured."""
    if not group.subnets:
        return []
    figures = [scatter_figure(group, "flops", points), scatter_figure(group, "latency_ms", points)]
    figures += [histogram_figure(group), depth_figure(group), perplexity_figure(group), stages_figure(group)]
    return [figure for figure in figures if figure.rows]
