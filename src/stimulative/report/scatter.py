"""Every subnet by what it costs, with the frontier: the best accuracy that each cost buys."""

from __future__ import annotations

import statistics

import altair as alt

from stimulative.report.figure import Figure, Row, data, thinned, tooltip
from stimulative.report.run_groups import Group, grouped
from stimulative.report.style import HEIGHT
from stimulative.runs import CostName, frontier

POINTS = 1500
"""So many points a chart draws at most; the table and the CSV file have all of them."""

_COSTS = {
    "flops": ("family", "{} and computation", "FLOPs for one {sample}", "~s"),
    "latency_ms": ("family-latency", "{} and latency", "latency (ms)", "~g"),
}

_FLOPS = " FLOPs: floating-point operations, of which a multiply-add is two."


def scatter_figure(group: Group, cost: CostName, points: int = POINTS) -> Figure:
    """Accuracy against a cost, ``"flops"`` or ``"latency_ms"``; without rows where it has not been measured."""
    name, title, axis, form = _COSTS[cost]
    rows = [row for row in _points(group) if row[cost] is not None]
    for of_series in grouped(rows, lambda row: row["series"]).values():
        best = frontier(of_series, lambda row: row[cost], lambda row: row["quality"])
        names = {row["subnet"] for row in best}
        for row in of_series:
            row["frontier"] = row["subnet"] in names
    drawn = [row for row in rows if row["frontier"]]
    drawn += thinned([row for row in rows if not row["frontier"]], points - len(drawn))
    left_out = f" {len(drawn):,} of {len(rows):,} points are drawn." if len(drawn) < len(rows) else ""
    palette = group.palette
    x = alt.X(
        cost,
        type="quantitative",
        title=axis.format(sample=group.words.samples.removesuffix("s")),
        scale=alt.Scale(zero=False, nice=False, padding=12),
        axis=alt.Axis(format=form, tickCount=6),
    )
    y = alt.Y("quality", type="quantitative", title=group.words.axis, scale=alt.Scale(zero=False))
    base = alt.Chart(data(drawn)).encode(x, y, palette.colour)
    line = base.transform_filter("datum.frontier").mark_line(interpolate="step-after", opacity=0.8).encode(palette.dash)
    marks = base.mark_point(opacity=0.65, size=55 if len(drawn) < 100 else 30).encode(
        palette.shape,
        tooltip=tooltip(
            subnet="subnet",
            series="trained",
            quality=group.words.number(group.words.measure.short),
            **({"perplexity": "perplexity:.2f"} if any("perplexity" in row for row in rows) else {}),
            blocks="blocks:d",
            parameters="parameters:,d",
            flops="FLOPs:,d",
            **({"latency_ms": "latency (ms):.3g"} if any(row["latency_ms"] is not None for row in rows) else {}),
        ),
    )
    return Figure(
        name,
        title.format(group.words.title),
        f"A point is a subnet, its mean over seeds; the line is the frontier, the best {group.words.quality} for each "
        "cost. "
        f"{group.measured()}{_timing(group) if cost == 'latency_ms' else _FLOPS}{left_out}",
        rows,
        (line + marks).properties(height=HEIGHT),
        measure=group.words.key,
    )


def _points(group: Group) -> list[Row]:
    """A row for each subnet of each series: means over seeds."""
    rows = []
    for (series, subnet), measured in grouped(group.subnets, lambda one: (one.series, one.member.subnet)).items():
        quality = [one.quality for one in measured]
        members = [one.member for one in measured]
        perplexities = [member.score.perplexity for member in members if member.score.perplexity is not None]
        latencies = [member.latency.median_ms for member in members if member.latency is not None]
        rows.append(
            {
                "series": series,
                "subnet": str(subnet),
                "blocks": subnet.blocks,
                "parameters": members[0].cost.parameters,
                "flops": members[0].cost.flops,
                "latency_ms": statistics.fmean(latencies) if latencies else None,
                "quality": statistics.fmean(quality),
                "quality_std": statistics.stdev(quality) if len(quality) > 1 else 0.0,
                "seeds": len(quality),
            }
            | ({"perplexity": statistics.fmean(perplexities)} if perplexities else {})
        )
    return rows


def _timing(group: Group) -> str:
    """How latency was measured, for each way in which it was."""
    ways = dict.fromkeys(run.summary.latency for run in group.runs if run.summary.latency is not None)
    return "".join(
        f" Latency: {way.device}, batch {way.batch}, threads {way.threads}, median of {way.rounds} rounds."
        for way in ways
    )
