"""Which stage accuracy hangs on: subnets by the depth of each single stage."""

from __future__ import annotations

from typing import Any

import altair as alt

from stimulative.report.figure import Figure, Row, data, tooltip
from stimulative.report.run_groups import Group, grouped
from stimulative.report.style import HEIGHT, names_axis
from stimulative.runs import Spread


def stages_figure(group: Group) -> Figure:
    """For each stage and depth, the mean accuracy of the subnets that have it, and their deviation."""
    rows = _rows(group)
    return Figure(
        "stages",
        f"{group.words.title} by depth of each stage",
        f"A mark is the mean over subnets with that many blocks in that stage and over seeds, the line its standard "
        f"deviation on both sides. {group.measured()}",
        rows,
        _chart(group, rows),
    )


def _rows(group: Group) -> list[Row]:
    names = {spread.stage: spread.name for run in group.runs for spread in run.summary.by_stage or ()}
    order = list(group.series)
    pairs = [
        ((order.index(one.series), stage, depth), one)
        for one in group.subnets
        for stage, depth in enumerate(one.member.subnet.depths)
    ]
    rows = []
    for (series, stage, depth), of_cell in sorted(grouped(pairs, lambda pair: pair[0]).items()):
        subnets = [one for _, one in of_cell]
        rows.append(
            {"series": order[series], "stage": stage, "name": names.get(stage, f"stage {stage + 1}"), "depth": depth}
            | {"subnets": len({one.member.subnet for one in subnets})}
            | Spread.of([one.quality for one in subnets]).to_mapping()
        )
    return rows


def _chart(group: Group, rows: list[Row]) -> Any:
    palette = group.palette
    drawn = [
        row
        | {"place": f"{row['name']}: {row['depth']}"}
        | {"low": row["mean"] - row["std"], "high": row["mean"] + row["std"]}
        for row in rows
    ]
    drawn.sort(key=lambda row: (row["stage"], row["depth"]))
    places = list(dict.fromkeys(row["place"] for row in drawn))
    base = alt.Chart(data(drawn)).encode(
        alt.X(
            "place",
            type="nominal",
            sort=places,
            title="stage: its blocks that run",
            axis=names_axis(places),
        ),
        alt.XOffset("series", type="nominal", sort=palette.names),
        palette.colour,
    )
    spread = base.mark_rule(strokeWidth=2, opacity=0.6).encode(
        alt.Y("low", type="quantitative", title=group.words.axis, scale=alt.Scale(zero=False)), alt.Y2("high")
    )
    marks = base.mark_point(size=70).encode(
        alt.Y("mean", type="quantitative"),
        palette.shape,
        tooltip=tooltip(
            series="trained",
            name="stage",
            depth="its blocks:d",
            subnets="subnets:d",
            mean=group.words.number("mean"),
            std=f"deviation:{group.words.measure.form}",
            min=group.words.number("worst"),
            max=group.words.number("best"),
        ),
    )
    return (spread + marks).properties(height=HEIGHT)
