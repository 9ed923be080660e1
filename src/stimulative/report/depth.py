"""Accuracy by the number of blocks that run."""

from __future__ import annotations

import altair as alt

from stimulative.report.figure import Figure, data, tooltip
from stimulative.report.study import Study, grouped, mean_and_spread
from stimulative.report.style import HEIGHT


def depth_figure(study: Study) -> Figure:
    """The mean accuracy of the subnets with each number of blocks, and a band from the worst to the best."""
    rows = []
    for series, members in grouped(study.family, lambda row: row["series"]).items():
        by_blocks = grouped(members, lambda row: row["blocks"])
        for blocks in sorted(by_blocks):
            top1 = [row["top1"] for row in by_blocks[blocks]]
            mean, std = mean_and_spread(top1)
            subnets = len({row["subnet"] for row in by_blocks[blocks]})
            rows.append(
                {"series": series, "blocks": blocks, "subnets": subnets, "mean": mean, "std": std}
                | {"min": min(top1), "max": max(top1)}
            )
    palette = study.palette
    base = alt.Chart(data(rows)).encode(
        alt.X(
            "blocks",
            type="quantitative",
            title="blocks that run",
            axis=alt.Axis(tickMinStep=1, format="d"),
            scale=alt.Scale(zero=False, nice=False, padding=12),
        ),
        palette.colour,
    )
    y = alt.Y("mean", type="quantitative", title="top-1 (%)", scale=alt.Scale(zero=False))
    band = base.mark_area(opacity=0.18).encode(alt.Y("min", type="quantitative"), alt.Y2("max"))
    shown = tooltip(
        series="trained",
        blocks="blocks:d",
        subnets="subnets:d",
        mean="mean (%):.2f",
        std="deviation:.2f",
        min="worst (%):.2f",
        max="best (%):.2f",
    )
    chart = band + base.mark_line().encode(y, palette.dash) + base.mark_point().encode(y, palette.shape, tooltip=shown)
    return Figure(
        "depth",
        "Accuracy by number of blocks",
        f"The line is the mean over subnets with that many blocks and over seeds, the band goes from the worst to the "
        f"best of them. {study.measured()}",
        rows,
        chart.properties(height=HEIGHT),
    )
