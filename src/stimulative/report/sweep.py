"""Main net and all subnets against the values of a setting, as in Fig. r3 of the paper."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import altair as alt

from stimulative.report.contents import read_study
from stimulative.report.figure import Figure, data, save_all, tooltip
from stimulative.report.series import failures, span
from stimulative.report.style import HEIGHT, Palette, names_axis
from stimulative.report.words import words_of

_MAIN, _ALL = "main net", "all subnets"


def draw_sweep(directory: str | Path) -> list[Path]:
    """Draw the picture of ``sweep.json`` into its directory.

    Returns:
        The paths of the files.
    """
    return save_all(sweep_figures(Path(directory)), Path(directory))


def sweep_figures(directory: Path) -> list[Figure]:
    """Accuracy against the value; none where no run has finished."""
    study = read_study(directory, "sweep")
    if not study["rows"]:
        return []
    return [_figure(study)]


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


def _figure(study: dict[str, Any]) -> Figure:
    rows = study["rows"]
    words = words_of(rows)
    values = [row["value"] for row in rows]
    x, numeric = value_axis(values, study["key"]), _numeric(values)
    drawn = [
        {
            "value": row["value"] if numeric else _name(row["value"]),
            "series": series,
            "mean": row[f"{key}_mean"],
            "std": row[f"{key}_std"],
            "low": row[f"{key}_mean"] - row[f"{key}_std"],
            "high": row[f"{key}_mean"] + row[f"{key}_std"],
        }
        for row in rows
        for series, key in ((_MAIN, "main"), (_ALL, "all"))
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
        tooltip=tooltip(value=study["key"], series="net", mean="mean (%):.2f", std="deviation:.2f"),
    )
    seeds = [row["seeds"] for row in rows]
    return Figure(
        "sweep",
        f"Accuracy against {study['key']}",
        "Main net: mean over seeds and its standard deviation. All subnets: mean, and standard deviation over subnets. "
        f"{study['model']} on {study['data']}, {study['epochs']} epochs, {span(seeds)} seeds for each value; "
        f"{words.accuracy} on the test split{words.recalibrated.format(of='subnets')}.{failures(study)}",
        rows,
        (spread + base.mark_line().encode(y, palette.dash) + marks).properties(height=HEIGHT),
    )


def _numeric(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _name(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
