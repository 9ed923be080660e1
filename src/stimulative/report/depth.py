"""Accuracy, and of texts perplexity, by the number of blocks that run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import altair as alt

from stimulative.report.figure import Figure, Row, data, tooltip
from stimulative.report.run_groups import Group, MeasuredSubnet, grouped
from stimulative.report.style import HEIGHT
from stimulative.runs import Spread


def depth_figure(group: Group) -> Figure:
    """The mean accuracy of the subnets with each number of blocks, and a band from the worst to the best."""
    rows = _rows(group, lambda one: one.quality)
    return Figure(
        "depth",
        f"{group.words.title} by number of blocks",
        f"The line is the mean over subnets with that many blocks and over seeds, the band goes from the worst to the "
        f"best of them. {group.measured()}",
        rows,
        _chart(group, rows, group.words.axis, number=group.words.number, worst="min", best="max"),
    )


def perplexity_figure(group: Group) -> Figure:
    """The same of perplexities; without rows for images."""
    rows = _rows(group, lambda one: one.member.score.perplexity)
    return Figure(
        "depth-perplexity",
        "Perplexity by number of blocks",
        "The mean perplexity on the test split, lower is better, of subnets with that many blocks and over seeds; the "
        f"band goes from the best to the worst of them; {group.seeds()}.",
        rows,
        _chart(group, rows, "perplexity", number="{}:.2f".format, worst="max", best="min"),
    )


def _rows(group: Group, value: Callable[[MeasuredSubnet], float | None]) -> list[Row]:
    """A row for each series and number of blocks; subnets of which the value is not known are left out."""
    rows = []
    for series, subnets in grouped(group.subnets, lambda one: one.series).items():
        known = [(one, number) for one in subnets if (number := value(one)) is not None]
        for blocks, of_blocks in sorted(grouped(known, lambda pair: pair[0].blocks).items()):
            different = len({one.member.subnet for one, _ in of_blocks})
            spread = Spread.of([number for _, number in of_blocks])
            rows.append({"series": series, "blocks": blocks, "subnets": different, **spread.to_mapping()})
    return rows


def _chart(group: Group, rows: list[Row], axis: str, *, number: Callable[[str], str], worst: str, best: str) -> Any:
    palette = group.palette
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
        mean=number("mean"),
        std="deviation:.2f",
        **{worst: number("worst"), best: number("best")},
    )
    chart = band + base.mark_line().encode(y, palette.dash) + base.mark_point().encode(y, palette.shape, tooltip=shown)
    return chart.properties(height=HEIGHT)
