"""Which stage accuracy hangs on: subnets by the depth of each single stage."""

from __future__ import annotations

import altair as alt

from stimulative.report.figure import Figure, data, tooltip
from stimulative.report.series import Study, grouped, mean_and_spread
from stimulative.report.style import HEIGHT, names_axis
from stimulative.residual import Subnet


def stages_figure(study: Study) -> Figure:
    """For each stage and depth, the mean accuracy of the subnets that have it, and their deviation."""
    members = [
        {"stage": stage, "depth": depth, **row}
        for row in study.family
        for stage, depth in enumerate(Subnet.parse(row["subnet"]).depths)
    ]
    names = {row["stage"]: row["name"] for run in study.runs for row in run.summary.get("by_stage") or []}
    order = list(study.series)
    cells = grouped(members, lambda row: (order.index(row["series"]), row["stage"], row["depth"]))
    rows = []
    for (series, stage, depth), of_cell in sorted(cells.items(), key=lambda pair: pair[0]):
        top1 = [row["top1"] for row in of_cell]
        mean, std = mean_and_spread(top1)
        rows.append(
            {"series": order[series], "stage": stage, "name": names.get(stage, f"stage {stage + 1}"), "depth": depth}
            | {"subnets": len({row["subnet"] for row in of_cell}), "mean": mean, "std": std}
            | {"min": min(top1), "max": max(top1)}
        )
    palette = study.palette
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
        alt.Y("low", type="quantitative", title=study.words.axis, scale=alt.Scale(zero=False)), alt.Y2("high")
    )
    marks = base.mark_point(size=70).encode(
        alt.Y("mean", type="quantitative"),
        palette.shape,
        tooltip=tooltip(
            series="trained",
            name="stage",
            depth="its blocks:d",
            subnets="subnets:d",
            mean="mean (%):.2f",
            std="deviation:.2f",
            min="worst (%):.2f",
            max="best (%):.2f",
        ),
    )
    return Figure(
        "stages",
        "Accuracy by depth of each stage",
        f"A mark is the mean over subnets with that many blocks in that stage and over seeds, the line its standard "
        f"deviation on both sides. {study.measured()}",
        rows,
        (spread + marks).properties(height=HEIGHT),
    )
