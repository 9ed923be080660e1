"""What breaks a network: blocks deleted one by one, at random, and swapped."""

from __future__ import annotations

from pathlib import Path

import altair as alt

from stimulative.report.figure import Figure, Row, data, row_of, save_all, tooltip
from stimulative.report.style import HEIGHT, Palette, legend, names_axis
from stimulative.report.words import span, subject_of, words_of
from stimulative.studies import Destruction, DrawsRow, SingleRow, SwappedRow

_STATISTICS = {True: "recalibrated", False: "as trained"}
_COLUMNS = "run", "recalibrated", "k", "draws", "mean", "std", "min", "max"
"""The columns that are drawn, first in the table."""


def draw_destruction(directory: str | Path) -> list[Path]:
    """Draw the pictures of ``destruction.json`` into its directory.

    Returns:
        The paths of the files.
    """
    return save_all(destruction_figures(Destruction.read(Path(directory))), Path(directory))


def destruction_figures(study: Destruction) -> list[Figure]:
    """Accuracy by the number of deleted blocks, by how far blocks are out of order, and without each single block."""
    palette = Palette({run.run: run.method for run in study.runs}, "run")
    makers = {_deletions: study.delete_rows, _swaps: study.swap_rows, _singles: study.single}
    return [make(study, palette) for make, rows in makers.items() if rows]


def _deletions(study: Destruction, palette: Palette) -> Figure:
    rows = [_stated(row, *_COLUMNS) for row in study.delete_rows]
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
    y = alt.Y("mean", type="quantitative", title=words_of(study.task).axis)
    band = base.mark_area(opacity=0.12).encode(alt.Y("low", type="quantitative"), alt.Y2("high"))
    line = base.mark_line().encode(y, _dash(rows))
    marks = base.mark_point(filled=False, strokeWidth=2).encode(
        y,
        palette.shape,
        *palette.full_or_hollow("statistics", _STATISTICS[False]),
        tooltip=tooltip(
            run="run",
            statistics="statistics",
            k="deleted:d",
            mean=words_of(study.task).number("mean"),
            std=f"deviation:{words_of(study.task).measure.form}",
            min=words_of(study.task).number("worst"),
            max=words_of(study.task).number("best"),
            draws="draws:d",
        ),
    )
    return Figure(
        "destruction-delete",
        "Deleting random blocks",
        f"The line is the mean over up to {study.draws} draws of the blocks to delete, the band its deviation "
        f"on both sides, as far as the worst and the best. {_measured(study, rows)}",
        rows,
        (band + line + marks).properties(height=HEIGHT),
        measure=words_of(study.task).key,
    )


def _swaps(study: Destruction, palette: Palette) -> Figure:
    means = [_stated(row) for row in study.swap_rows]
    draws = [_stated(draw) for draw in study.swaps]
    x = alt.X(
        "tau",
        type="quantitative",
        title="Kendall's tau (1: as trained)",
        scale=alt.Scale(reverse=True, zero=False),
        axis=alt.Axis(format="~g", tickCount=6),
    )
    y = alt.Y("quality", type="quantitative", title=words_of(study.task).axis)
    looks = (palette.colour, alt.Detail("statistics", type="nominal"))
    line = (
        alt.Chart(data([row | {"quality": row["mean"]} for row in means]))
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
            *palette.full_or_hollow("statistics", _STATISTICS[False]),
            tooltip=tooltip(
                run="run",
                statistics="statistics",
                k="swapped pairs:d",
                tau="tau:.2f",
                quality=f"{words_of(study.task).axis}:{words_of(study.task).measure.form}",
                subnet="order",
            ),
        )
    )
    return Figure(
        "destruction-swap",
        "Swapping random pairs of blocks",
        f"A mark is a draw of pairs to swap, by Kendall's tau of the order of blocks; the line is the mean "
        f"over up to {study.draws} draws of each number of pairs. {_measured(study, draws)}",
        draws,
        (line + marks).properties(height=HEIGHT),
        measure=words_of(study.task).key,
    )


def _singles(study: Destruction, palette: Palette) -> Figure:
    rows = [_stated(row) for row in study.single]
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
        alt.Y("quality", type="quantitative", title=words_of(study.task).axis),
        palette.colour,
        alt.Detail("statistics", type="nominal"),
    )
    marks = base.mark_point(filled=False, strokeWidth=2).encode(
        palette.shape,
        *palette.full_or_hollow("statistics", _STATISTICS[False]),
        tooltip=tooltip(
            run="run",
            statistics="statistics",
            name="without",
            quality=f"{words_of(study.task).axis}:{words_of(study.task).measure.form}",
            subnet="subnet",
        ),
    )
    chart = base.mark_line(strokeWidth=1.2, opacity=0.7).encode(_dash(rows)) + marks
    whole = ", ".join(f"{run.run} {run.main:{words_of(study.task).measure.form}}" for run in study.runs)
    return Figure(
        "destruction-single",
        "Deleting each single block",
        f"{words_of(study.task).title} without one block; with all blocks: {whole}. {_measured(study, rows)}",
        rows,
        chart.properties(height=HEIGHT),
        least_width=0 if len(names) <= 16 else 22 * len(names) + 60,
        measure=words_of(study.task).key,
    )


def _stated(row: SingleRow | SwappedRow | DrawsRow, *first: str) -> Row:
    """The row with its statistics in words, and some columns before the others."""
    return {
        ("statistics" if key == "recalibrated" else key): _STATISTICS[value] if key == "recalibrated" else value
        for key, value in row_of(row, *first).items()
    }


def _dash(rows: list[Row]) -> alt.StrokeDash:
    kinds = [kind for kind in _STATISTICS.values() if any(row["statistics"] == kind for row in rows)]
    scale = alt.Scale(domain=list(_STATISTICS.values()), range=[[1, 0], [5, 4]])
    return alt.StrokeDash(
        "statistics", type="nominal", scale=scale, legend=legend(kinds, lines=True) if len(kinds) > 1 else None
    )


def _measured(study: Destruction, rows: list[Row]) -> str:
    kinds = {row["statistics"] for row in rows}
    calibration = span(_first_known(run.calibration_images, study.calibration_images) for run in study.runs)
    how = {
        True: f"statistics recalibrated on {calibration} training images"
        + (f" prepared as for {study.calibration}" if study.calibration else ""),
        False: "statistics as training left them",
    }
    stated = " and ".join(text for kind, text in how.items() if _STATISTICS[kind] in kinds)
    both = " (full marks and hollow ones)" if len(kinds) > 1 else ""
    images = span(_first_known(run.images, study.images) for run in study.runs)
    words = words_of(study.task)
    stated = f", {stated}{both}" if words.recalibrated else ""
    return (
        f"{subject_of(study.runs)}: {words.accuracy} on {images} test {words.samples}{stated}; seed of the draws "
        f"{study.seed}."
    )


def _first_known(of_run: int | None, of_all: int | None) -> int | None:
    """What a run says of itself; older files say it of all runs together."""
    return of_all if of_run is None else of_run
