"""How the accuracies of all subnets are distributed."""

from __future__ import annotations

import math

import altair as alt

from stimulative.report.figure import Figure, Row, data, tooltip
from stimulative.report.run_groups import Group, grouped
from stimulative.report.style import HEIGHT


def histogram_figure(group: Group) -> Figure:
    """The share of subnets in each interval of accuracy, for each series."""
    rows = _bins(group)
    palette = group.palette
    chart = (
        alt.Chart(data(rows))
        .mark_bar(fillOpacity=0.35, strokeWidth=1.5, binSpacing=0)
        .encode(
            alt.X("from", type="quantitative", title=group.words.axis, scale=alt.Scale(zero=False, nice=False)),
            alt.X2("to"),
            alt.Y("share", type="quantitative", title="share of subnets (%)", stack=None),
            alt.Y2(datum=0),
            palette.colour,
            palette.stroke,
            palette.dash,
            tooltip=tooltip(
                series="trained",
                **{"from": group.words.number("from"), "to": group.words.number("to")},
                subnets="subnets:d",
                share="share (%):.1f",
            ),
        )
    )
    return Figure(
        "histogram",
        "Accuracies of all subnets" if group.words.title == "Accuracy" else f"{group.words.title} of all subnets",
        f"The share of subnets, of all seeds together, whose {group.words.quality} is in each interval. "
        f"{group.measured()}",
        rows,
        chart.properties(height=HEIGHT),
    )


def _bins(group: Group) -> list[Row]:
    """Intervals of a round width, the same for every series; empty ones are left out."""
    subnets = group.subnets
    low, high = min(one.quality for one in subnets), max(one.quality for one in subnets)
    width = next(w for w in (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0) if (high - low) / w <= 30 or w == 5.0)

    def place(quality: float) -> int:
        return math.floor(quality / width + 1e-9)

    rows = []
    for series, of_series in grouped(subnets, lambda one: one.series).items():
        inside = grouped(of_series, lambda one: place(one.quality))
        rows += [
            {
                "series": series,
                "from": round(number * width, 6),
                "to": round((number + 1) * width, 6),
                "subnets": len(inside[number]),
                "share": 100 * len(inside[number]) / len(of_series),
            }
            for number in sorted(inside)
        ]
    return rows
