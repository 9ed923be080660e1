"""Every subnet by what it costs, with the frontier: the best accuracy that each cost buys."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import altair as alt

from stimulative.report.contents import read_run
from stimulative.report.depth import depth_figure, perplexity_figure
from stimulative.report.figure import Figure, Row, data, save_all, thinned, tooltip
from stimulative.report.histogram import histogram_figure
from stimulative.report.series import Study, grouped, studies_of
from stimulative.report.stages import stages_figure
from stimulative.report.style import HEIGHT

POINTS = 1500
"""So many points a chart draws at most; the table and the CSV file have all of them."""

_COSTS = {
    "flops": ("family", "Accuracy and computation", "FLOPs for one {sample}", "~s"),
    "latency_ms": ("family-latency", "Accuracy and latency", "latency (ms)", "~g"),
}

_FLOPS = " FLOPs: floating-point operations, of which a multiply-add is two."


def draw_family(run: str | Path) -> list[Path]:
    """Draw the pictures of a run's subnets into its directory.

    Returns:
        The paths of the files.

    Raises:
        UsageError: If the directory is not that of a finished run.
    """
    directory = Path(run)
    return save_all(family_figures(studies_of([read_run(directory)])[0]), directory)


def family_figures(study: Study, points: int = POINTS) -> list[Figure]:
    """All pictures of the subnets of a study's runs; none where no subnet has been measured."""
    if not study.family:
        return []
    figures = [scatter_figure(study, "flops", points), scatter_figure(study, "latency_ms", points)]
    figures += [histogram_figure(study), depth_figure(study), perplexity_figure(study), stages_figure(study)]
    return [figure for figure in figures if figure.rows]


def scatter_figure(study: Study, cost: str, points: int = POINTS) -> Figure:
    """Accuracy against a cost, ``"flops"`` or ``"latency_ms"``; without rows where it has not been measured."""
    name, title, axis, form = _COSTS[cost]
    rows = [row for row in _points(study) if row[cost] is not None]
    for of_series in grouped(rows, lambda row: row["series"]).values():
        best = frontier(of_series, cost)
        for row in of_series:
            row["frontier"] = row["subnet"] in best
    drawn = [row for row in rows if row["frontier"]]
    drawn += thinned([row for row in rows if not row["frontier"]], points - len(drawn))
    left_out = f" {len(drawn):,} of {len(rows):,} points are drawn." if len(drawn) < len(rows) else ""
    palette = study.palette
    x = alt.X(
        cost,
        type="quantitative",
        title=axis.format(sample=study.words.samples.removesuffix("s")),
        scale=alt.Scale(zero=False, nice=False, padding=12),
        axis=alt.Axis(format=form, tickCount=6),
    )
    y = alt.Y("top1", type="quantitative", title=study.words.axis, scale=alt.Scale(zero=False))
    base = alt.Chart(data(drawn)).encode(x, y, palette.colour)
    line = base.transform_filter("datum.frontier").mark_line(interpolate="step-after", opacity=0.8).encode(palette.dash)
    marks = base.mark_point(opacity=0.65, size=55 if len(drawn) < 100 else 30).encode(
        palette.shape,
        tooltip=tooltip(
            subnet="subnet",
            series="trained",
            top1=f"{study.words.axis}:.2f",
            **({"perplexity": "perplexity:.2f"} if any("perplexity" in row for row in rows) else {}),
            blocks="blocks:d",
            parameters="parameters:,d",
            flops="FLOPs:,d",
            **({"latency_ms": "latency (ms):.3g"} if any(row["latency_ms"] is not None for row in rows) else {}),
        ),
    )
    return Figure(
        name,
        title,
        f"A point is a subnet, its mean over seeds; the line is the frontier, the best accuracy for each cost. "
        f"{study.measured()}{_timing(study) if cost == 'latency_ms' else _FLOPS}{left_out}",
        rows,
        (line + marks).properties(height=HEIGHT),
    )


def frontier(rows: list[Row], cost: str) -> list[str]:
    """The subnets that no other one beats: none costs no more, is no less accurate and is better in one of them."""
    best: list[Row] = []
    for row in sorted(rows, key=lambda row: (row[cost], -row["top1"])):
        if not best or row["top1"] > best[-1]["top1"] or (row["top1"], row[cost]) == (best[-1]["top1"], best[-1][cost]):
            best.append(row)
    return [row["subnet"] for row in best]


def _points(study: Study) -> list[Row]:
    """A row for each subnet of each series: means over seeds."""
    rows = []
    for (series, subnet), measured in grouped(study.family, lambda row: (row["series"], row["subnet"])).items():
        top1 = [row["top1"] for row in measured]
        perplexities = [row["perplexity"] for row in measured if "perplexity" in row]
        latency = [row["latency_ms"] for row in measured if row["latency_ms"] is not None]
        rows.append(
            {
                "series": series,
                "subnet": subnet,
                "blocks": measured[0]["blocks"],
                "parameters": measured[0]["parameters"],
                "flops": measured[0]["flops"],
                "latency_ms": statistics.fmean(latency) if latency else None,
                "top1": statistics.fmean(top1),
                "top1_std": statistics.stdev(top1) if len(top1) > 1 else 0.0,
                "seeds": len(top1),
            }
            | ({"perplexity": statistics.fmean(perplexities)} if perplexities else {})
        )
    return rows


def _timing(study: Study) -> str:
    """How latency was measured, for each way in which it was."""
    ways: list[dict[str, Any]] = []
    for run in study.runs:
        way = run.summary.get("latency")
        if way and way not in ways:
            ways.append(way)
    return "".join(
        f" Latency: {way['device']}, batch {way['batch']}, threads {way['threads']}, median of {way['rounds']} rounds."
        for way in ways
    )
