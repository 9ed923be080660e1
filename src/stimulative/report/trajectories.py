"""How training went: loss and accuracy by epoch, several runs on one picture."""

from __future__ import annotations

from typing import Any

import altair as alt

from stimulative.report.figure import Figure, Row, data, tooltip
from stimulative.report.run_groups import Group
from stimulative.report.style import HEIGHT

_LOGGED = "epoch", "loss", "main_ce", "train_quality", "validation_quality"
_TESTED = "test_quality"
_MARKS = 20
"""About so many epochs of a run have a mark to hover over."""


def trajectory_figures(group: Group, points: int) -> list[Figure]:
    """Training loss, validation accuracy and, of runs that have it, test accuracy by epoch; none without a log.

    Args:
        group: The runs.
        points: About so many epochs of all runs together are drawn at most; the CSV file has all of them.
    """
    tested = any(epoch.test_quality is not None for run in group.runs for epoch in run.metrics)
    logged = (*_LOGGED, _TESTED) if tested else _LOGGED
    rows = [
        {"series": name, "seed": run.summary.seed, **{column: getattr(epoch, column) for column in logged}}
        for name, runs in group.series.items()
        for run in runs
        for epoch in run.metrics
    ]
    if not rows:
        return []
    # the whole loss of one method has other terms than that of another
    words = group.words
    own = all(row["main_ce"] is not None for row in rows)
    of_task = words.measure.loss
    loss, what = (
        ("main_ce", f"{of_task[:1].upper()}{of_task[1:]} of the main net")
        if own
        else ("loss", "The whole loss, all terms of the method,")
    )
    figures = [
        Figure(
            "trajectory-loss",
            "Training loss",
            f"{what} on training {words.samples}, mean of each epoch. {_lines(group)}",
            rows,
            _chart(group, rows, loss, of_task if own else "loss", points),
            measure=words.key,
        )
    ]
    of_parts = (
        ("validation", "held out of the training split"),
        ("test", "of the test split, with the statistics of validation; it chose nothing"),
    )
    for part, where in of_parts:
        measured = [row for row in rows if row.get(f"{part}_quality") is not None]
        if measured:
            figures.append(
                Figure(
                    f"trajectory-{part}",
                    f"{part.capitalize()} {words.quality}",
                    f"{words.opening} of the main net on {words.samples} {where}. {_lines(group)}",
                    measured,
                    _chart(group, measured, f"{part}_quality", words.axis, points),
                    measure=words.key,
                )
            )
    return figures


def _chart(group: Group, rows: list[Row], key: str, axis: str, points: int) -> Any:
    epochs = max(row["epoch"] for row in rows)
    every, marked = -(-len(rows) // max(1, points)), max(1, epochs // _MARKS)
    keys = ("series", "seed", "epoch", key)
    drawn = [
        {name: row[name] for name in keys} | {"marked": row["epoch"] % marked == 0 or row["epoch"] == 1}
        for row in rows
        if row["epoch"] % every == 0 or row["epoch"] % marked == 0 or row["epoch"] in (1, epochs)
    ]
    palette = group.palette
    base = alt.Chart(data(drawn)).encode(
        alt.X(
            "epoch",
            type="quantitative",
            axis=alt.Axis(tickMinStep=1, format="d"),
            scale=alt.Scale(nice=False, zero=False, padding=8),
        ),
        alt.Y(key, type="quantitative", title=axis, scale=alt.Scale(zero=False)),
        palette.colour,
    )
    lines = base.mark_line(strokeWidth=1.5).encode(palette.dash, alt.Detail("seed", type="nominal"))
    marks = base.transform_filter("datum.marked").mark_point(size=35)
    shown = tooltip(series="trained", seed="seed", epoch="epoch:d", **{key: f"{axis}:.4g"})
    return (lines + marks.encode(palette.shape, tooltip=shown)).properties(height=HEIGHT)


def _lines(group: Group) -> str:
    return f"A line is a run; {group.seeds()}."
