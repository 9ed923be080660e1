"""Main net and all subnets against the values of a setting, as in Fig. r3 of the paper."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import altair as alt

from stimulative.report.figure import Figure, data, row_of, save_all, tooltip
from stimulative.report.style import HEIGHT, Palette, names_axis
from stimulative.report.words import failures_in_words, span, statistics_in_words, subject_of, words_of
from stimulative.studies import Sweep

_MAIN, _ALL = "main net", "all subnets"


def draw_sweep(directory: str | Path) -> list[Path]:
    """Draw the picture of ``sweep.json`` into its directory.

    Returns:
        The paths of the files.
    """
    return save_all(sweep_figures(Sweep.read(Path(directory))), Path(directory))


def sweep_figures(sweep: Sweep) -> list[Figure]:
    """Accuracy against the value; none where no run has finished."""
    return [_figure(sweep)] if sweep.rows else []


def value_axis(values: Sequence[Any], title: str) -> alt.X:
    """Numbers on a line, a logarithmic one where they are positive and span more than a factor of ten; else names."""
    if not _numeric(values):
        names = [_name(value) for value in values]
        return alt.X("value", type="nominal", sort=names, title=title, axis=names_axis(names))
    logarithmic = min(values) > 0 and max(values) / min(values) > 10
    return alt.X(
        "value",
        type="quantitative",
        title=f"{title} (logarithmic)" if logarithmic else title,
        scale=alt.Scale(type="log", nice=False, padding=16)
        if logarithmic
        else alt.Scale(zero=False, nice=False, padding=16),
        axis=alt.Axis(values=sorted(set(values)), format="~g"),
    )


def _figure(sweep: Sweep) -> Figure:
    words = words_of(sweep.task)
    values = [row.value for row in sweep.rows]
    x, numeric = value_axis(values, sweep.key), _numeric(values)
    drawn = [
        {
            "value": row.value if numeric else _name(row.value),
            "series": series,
            "mean": mean,
            "std": std,
            "low": mean - std,
            "high": mean + std,
        }
        for row in sweep.rows
        for series, mean, std in ((_MAIN, row.main_mean, row.main_std), (_ALL, row.all_mean, row.all_std))
    ]
    palette = Palette([_MAIN, _ALL])
    base = alt.Chart(data(drawn)).encode(x, palette.colour)
    y = alt.Y("mean", type="quantitative", title=words.axis, scale=alt.Scale(zero=False, nice=True))
    spread = base.mark_rule(opacity=0.6, strokeWidth=2).encode(
        alt.Y("low", type="quantitative", scale=alt.Scale(zero=False, nice=True)), alt.Y2("high")
    )
    marks = base.mark_point(size=80).encode(
        y,
        palette.shape,
        tooltip=tooltip(
            value=sweep.key, series="net", mean=words.number("mean"), std=f"deviation:{words.measure.form}"
        ),
    )
    seeds = [row.seeds for row in sweep.rows]
    return Figure(
        "sweep",
        f"{words.title} against {sweep.key}",
        "Main net: mean over seeds and its standard deviation. All subnets: mean, and standard deviation over subnets. "
        f"{subject_of([sweep])}, {sweep.epochs} epochs, {span(seeds)} seeds for each value; "
        f"{words.accuracy} on the test split{statistics_in_words(sweep, 'subnets')}."
        f"{failures_in_words(sweep.failed)}",
        [row_of(row, "value") for row in sweep.rows],
        (spread + base.mark_line().encode(y, palette.dash) + marks).properties(height=HEIGHT),
    )


def _numeric(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _name(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
