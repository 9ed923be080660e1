"""The picture of a comparison: every subnet of every method, by its number of blocks and as a distribution."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

import altair as alt

from stimulative.errors import UsageError
from stimulative.report.figure import Figure, Row, data, save_all
from stimulative.report.reading import read_run, read_study
from stimulative.report.study import grouped
from stimulative.report.style import HEIGHT, Palette

_LEFT, _RIGHT = 480, 300


def draw_comparison(directory: str | Path) -> list[Path]:
    """Draw ``comparison.png`` from the ``comparison.json`` and the runs of a comparison's directory.

    Returns:
        The paths of the files, the PNG first.
    """
    return save_all([comparison_figure(Path(directory))], Path(directory))


def comparison_figure(directory: Path) -> Figure:
    """Two charts side by side; for a file, since it is too wide for a page on a phone."""
    study = read_study(directory, "comparison")
    labels = {
        row["method"]: f"{row['method']}: all {row['all_mean']:.1f} ± {row['all_std']:.1f}, main {row['main_mean']:.1f}"
        for row in study["rows"]
    }
    family = [
        {"method": run["method"], "seed": run["seed"], **row}
        for run in study["runs"]
        for row in read_run(directory / f"{run['method']}-seed{run['seed']}").family
    ]
    run, seeds = study["runs"][0], study["rows"][0]["seeds"]
    methods = list(labels)
    subnets = grouped(family, lambda row: (row["method"], row["subnet"]))
    rows = [
        {
            "method": method,
            "subnet": subnet,
            "blocks": measured[0]["blocks"],
            "top1": statistics.fmean(row["top1"] for row in measured),
            "seeds": len(measured),
        }
        for (method, subnet), measured in subnets.items()
    ]
    if not rows:
        raise UsageError(f"no run of {directory} has its subnets measured; run the same stimulative compare again")
    palette = Palette({labels[method]: method for method in methods})
    top1 = [row["top1"] for row in family]
    accuracies = alt.Scale(domain=[math.floor(min(top1)), math.ceil(max(top1))], nice=True)
    shift = {method: (number - (len(methods) - 1) / 2) * 0.16 for number, method in enumerate(methods)}
    drawn = [row | {"series": labels[row["method"]], "place": row["blocks"] + shift[row["method"]]} for row in rows]
    every = [{"method": row["method"], "series": labels[row["method"]], "top1": row["top1"]} for row in family]
    return Figure(
        "comparison",
        f"Every subnet of {run['model']} on {run['data']}",
        f"{seeds} seeds, {run['epochs']} epochs; top-1 accuracy on the test split, statistics of each subnet "
        "recalibrated. Left: a mark is a subnet, its mean over seeds. Right: all subnets of all seeds, their "
        "density and quartiles.",
        rows,
        alt.hconcat(_by_blocks(drawn, palette, accuracies), _spread(every, methods, palette, accuracies), spacing=30),
        width=_LEFT + _RIGHT,
    )


def _by_blocks(rows: list[Row], palette: Palette, accuracies: alt.Scale) -> Any:
    base = alt.Chart(data(rows)).encode(palette.colour)
    marks = base.mark_point(opacity=0.55, size=28).encode(
        alt.X(
            "place",
            type="quantitative",
            title="blocks that run",
            scale=alt.Scale(zero=False, nice=False, padding=12),
            axis=alt.Axis(tickMinStep=1, format="d"),
        ),
        alt.Y("top1", type="quantitative", scale=accuracies, title="top-1 (%)"),
        palette.shape,
    )
    means = base.mark_line().encode(
        alt.X("blocks", type="quantitative"),
        alt.Y("mean(top1)", type="quantitative", scale=accuracies, title="top-1 (%)"),
        palette.dash,
    )
    return (means + marks).properties(width=_LEFT, height=HEIGHT)


def _spread(rows: list[Row], methods: list[str], palette: Palette, accuracies: alt.Scale) -> Any:
    width = max(60, _RIGHT // len(methods))
    y = alt.Y("top1", type="quantitative", scale=accuracies, title=None)
    base = alt.Chart().encode(palette.colour)
    violins = (
        base.transform_density("top1", as_=["top1", "density"], groupby=["method", "series"])
        .mark_area(orient="horizontal", opacity=0.35)
        .encode(y, alt.X("density", type="quantitative", stack="center", impute=None, title=None, axis=None))
    )
    boxes = base.mark_boxplot(size=12, outliers=False).encode(y, x=alt.value(width / 2))
    names = alt.Column("method", type="nominal", sort=methods, title=None, header=alt.Header(labelOrient="bottom"))
    return (
        alt.layer(violins, boxes, data=data(rows))
        .properties(width=width, height=HEIGHT)
        .facet(column=names, spacing=8)
        .resolve_scale(x="independent")
    )
