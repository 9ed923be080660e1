"""What breaks a network: blocks deleted one by one, at random, and swapped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import altair as alt

from stimulative.report.contents import read_study
from stimulative.report.figure import Figure, Row, data, save_all, tooltip
from stimulative.report.series import span
from stimulative.report.style import HEIGHT, Palette, legend, names_axis
from stimulative.report.words import Words, words_of

_STATISTICS = {True: "recalibrated", False: "as trained"}


def draw_destruction(directory: str | Path) -> list[Path]:
    """Draw the pictures of ``destruction.json`` into its directory.

    Returns:
        The paths of the files.
    """
    return save_all(destruction_figures(Path(directory)), Path(directory))


def destruction_figures(directory: Path) -> list[Figure]:
    """Accuracy by the number of deleted blocks, by how far blocks are out of order, and without each single block."""
    study = read_study(directory, "destruction")
    palette = Palette({run["run"]: run["method"] for run in study["runs"]}, "run")
    makers = {_deletions: "delete_rows", _swaps: "swap_rows", _singles: "single"}
    return [make(study, palette) for make, rows in makers.items() if study[rows]]


def _deletions(study: dict[str, Any], palette: Palette) -> Figure:
    rows = [_stated(row) for row in study["delete_rows"]]
    drawn = [
        row | {"low": max(row["mean"] - row["std"], row["min"]), "high": min(row["mean"] + row["std"], row["max"])}
        for row in rows
    ]
    base = alt.Chart(data(drawn)).encode(
        alt.X(
            "k",
            type="quantitative",
            title="deleted blocks",
            axis=alt.Axis(tickMinStep=1, format="d"),
            scale=alt.Scale(nice=False, padding=12),
        ),
        palette.colour,
        alt.Detail("statistics", type="nominal"),
    )
    y = alt.Y("mean", type="quantitative", title=_words(study).axis)
    band = base.mark_area(opacity=0.12).encode(alt.Y("low", type="quantitative"), alt.Y2("high"))
    line = base.mark_line().encode(y, _dash(rows))
    marks = base.mark_point(filled=False, strokeWidth=2).encode(
        y,
        palette.shape,
        **palette.full_or_hollow("statistics", _STATISTICS[False]),
        tooltip=tooltip(
            run="run",
            statistics="statistics",
            k="deleted:d",
            mean="mean (%):.2f",
            std="deviation:.2f",
            min="worst (%):.2f",
            max="best (%):.2f",
            draws="draws:d",
        ),
    )
    return Figure(
        "destruction-delete",
        "Deleting random blocks",
        f"The line is the mean over up to {study['draws']} draws of the blocks to delete, the band its deviation "
        f"on both sides, as far as the worst and the best. {_measured(study, rows)}",
        rows,
        (band + line + marks).properties(height=HEIGHT),
    )


def _swaps(study: dict[str, Any], palette: Palette) -> Figure:
    means = [_stated(row) for row in study["swap_rows"]]
    draws = [_stated(draw) for draw in study["swaps"]]
    x = alt.X(
        "tau",
        type="quantitative",
        title="Kendall's tau (1: as trained)",
        scale=alt.Scale(reverse=True, zero=False),
        axis=alt.Axis(format="~g", tickCount=6),
    )
    y = alt.Y("top1", type="quantitative", title=_words(study).axis)
    looks = (palette.colour, alt.Detail("statistics", type="nominal"))
    line = (
        alt.Chart(data([row | {"top1": row["mean"]} for row in means]))
        .mark_line()
        .encode(x, y, *looks, _dash(means), alt.Order("k", type="quantitative"))
    )
    marks = (
        alt.Chart(data(draws))
        .mark_point(filled=False, opacity=0.6, size=40, strokeWidth=1.5)
        .encode(
            x,
            y,
            *looks,
            palette.shape,
            **palette.full_or_hollow("statistics", _STATISTICS[False]),
            tooltip=tooltip(
                run="run",
                statistics="statistics",
                k="swapped pairs:d",
                tau="tau:.2f",
                top1=f"{_words(study).axis}:.2f",
                subnet="order",
            ),
        )
    )
    return Figure(
        "destruction-swap",
        "Swapping random pairs of blocks",
        f"A mark is a draw of pairs to swap, by Kendall's tau of the order of blocks; the line is the mean "
        f"over up to {study['draws']} draws of each number of pairs. {_measured(study, draws)}",
        draws,
        (line + marks).properties(height=HEIGHT),
    )


def _singles(study: dict[str, Any], palette: Palette) -> Figure:
    rows = [_stated(row) for row in study["single"]]
    names = list(dict.fromkeys(row["name"] for row in sorted(rows, key=lambda row: (row["stage"], row["block"]))))
    base = alt.Chart(data(rows)).encode(
        alt.X(
            "name",
            type="nominal",
            sort=names,
            title="deleted block",
            axis=names_axis(names),
            scale=alt.Scale(padding=0.3),
        ),
        alt.Y("top1", type="quantitative", title=_words(study).axis),
        palette.colour,
        alt.Detail("statistics", type="nominal"),
    )
    marks = base.mark_point(filled=False, strokeWidth=2).encode(
        palette.shape,
        **palette.full_or_hollow("statistics", _STATISTICS[False]),
        tooltip=tooltip(
            run="run", statistics="statistics", name="without", top1=f"{_words(study).axis}:.2f", subnet="subnet"
        ),
    )
    chart = base.mark_line(strokeWidth=1.2, opacity=0.7).encode(_dash(rows)) + marks
    whole = ", ".join(f"{run['run']} {run['main']:.2f}" for run in study["runs"])
    return Figure(
        "destruction-single",
        "Deleting each single block",
        f"Accuracy without one block; with all blocks: {whole}. {_measured(study, rows)}",
        rows,
        chart.properties(height=HEIGHT),
        least_width=0 if len(names) <= 16 else 22 * len(names) + 60,
    )


def _stated(row: Row) -> Row:
    """The row with its statistics in words."""
    return {
        ("statistics" if key == "recalibrated" else key): _STATISTICS[value] if key == "recalibrated" else value
        for key, value in row.items()
    }


def _dash(rows: list[Row]) -> alt.StrokeDash:
    kinds = [kind for kind in _STATISTICS.values() if any(row["statistics"] == kind for row in rows)]
    scale = alt.Scale(domain=list(_STATISTICS.values()), range=[[1, 0], [5, 4]])
    return alt.StrokeDash(
        "statistics", type="nominal", scale=scale, legend=legend(kinds, lines=True) if len(kinds) > 1 else None
    )


def _measured(study: dict[str, Any], rows: list[Row]) -> str:
    kinds = {row["statistics"] for row in rows}
    runs = study["runs"]
    calibration = span(run.get("calibration_images", study["calibration_images"]) for run in runs)
    how = {
        True: f"statistics recalibrated on {calibration} training images",
        False: "statistics as training left them",
    }
    stated = " and ".join(text for kind, text in how.items() if _STATISTICS[kind] in kinds)
    both = " (full marks and hollow ones)" if len(kinds) > 1 else ""
    images = span(run.get("images", study["images"]) for run in runs)
    of = " and ".join(dict.fromkeys(f"{run['model']} on {run['data']}" for run in runs))
    words = _words(study)
    stated = f", {stated}{both}" if words.recalibrated else ""
    return f"{of}: {words.accuracy} on {images} test {words.samples}{stated}; seed of the draws {study['seed']}."


def _words(study: dict[str, Any]) -> Words:
    return words_of(study["runs"])
