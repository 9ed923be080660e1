"""Accuracy, and of texts perplexity, by the number of blocks that run."""

from __future__ import annotations

from typing import Any

import altair as alt

from stimulative.report.figure import Figure, Row, data, tooltip
from stimulative.report.series import Study, grouped, mean_and_spread
from stimulative.report.style import HEIGHT


def depth_figure(study: Study) -> Figure:
    """The mean accuracy of the subnets with each number of blocks, and a band from the worst to the best."""
    rows = _rows(study, "top1")
    return Figure(
        "depth",
        "Accuracy by number of blocks",
        f"The line is the mean over subnets with that many blocks and over seeds, the band goes from the worst to the "
        f"best of them. {study.measured()}",
        rows,
        _chart(study, rows, study.words.axis, percent=" (%)", worst="min", best="max"),
    )


def perplexity_figure(study: Study) -> Figure:
    """The same of perplexities; without rows for images."""
    rows = _rows(study, "perplexity")
    return Figure(
        "depth-perplexity",
        "Perplexity by number of blocks",
        "The mean perplexity on the test split, lower is better, of subnets with that many blocks and over seeds; the "
        f"band goes from the best to the worst of them; {study.seeds()}.",
        rows,
        _chart(study, rows, "perplexity", percent="", worst="max", best="min"),
    )


def _rows(study: Study, key: str) -> list[Row]:
    rows = []
    for series, members in grouped(study.family, lambda row: row["series"]).items():
        by_blocks = grouped([row for row in members if key in row], lambda row: row["blocks"])
        for blocks in sorted(by_blocks):
            values = [row[key] for row in by_blocks[blocks]]
            mean, std = mean_and_spread(values)
            subnets = len({row["subnet"] for row in by_blocks[blocks]})
            rows.append(
                {"series": series, "blocks": blocks, "subnets": subnets, "mean": mean, "std": std}
                | {"min": min(values), "max": max(values)}
            )
    return rows


def _chart(study: Study, rows: list[Row], axis: str, *, percent: str, worst: str, best: str) -> Any:
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
    y = alt.Y("mean", type="quantitative", title=axis, scale=alt.Scale(zero=False))
    band = base.mark_area(opacity=0.18).encode(alt.Y("min", type="quantitative"), alt.Y2("max"))
    shown = tooltip(
        series="trained",
        blocks="blocks:d",
        subnets="subnets:d",
        mean=f"mean{percent}:.2f",
        std="deviation:.2f",
        **{worst: f"worst{percent}:.2f", best: f"best{percent}:.2f"},
    )
    chart = band + base.mark_line().encode(y, palette.dash) + base.mark_point().encode(y, palette.shape, tooltip=shown)
    return chart.properties(height=HEIGHT)
