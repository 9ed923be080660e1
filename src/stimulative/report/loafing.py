"""Network loafing, as in Fig. 2 of the poster: subnets inside main nets of several depths, and trained alone."""

from __future__ import annotations

from pathlib import Path

import altair as alt

from stimulative.report.figure import Figure, data, row_of, save_all, tooltip
from stimulative.report.style import HEIGHT, Palette, legend, names_axis
from stimulative.report.words import failures_in_words, seeds_in_words, statistics_in_words, subject_of, words_of
from stimulative.studies import Loafing

_IN_GROUP, _ALONE = "in group", "alone"
_COLUMNS = (
    *("method", "main", "blocks", "subnets"),
    *("in_group_mean", "in_group_std", "alone_mean", "alone_std"),
)
"""The columns that are drawn, first in the table."""


def draw_loafing(directory: str | Path) -> list[Path]:
    """Draw the pictures of ``loafing.json`` into its directory.

    Returns:
        The paths of the files.
    """
    return save_all(loafing_figures(Loafing.read(Path(directory))), Path(directory))


def loafing_figures(loafing: Loafing) -> list[Figure]:
    """Accuracy in the group and alone, and the gap between them, by main net; none where no run has finished."""
    return [_accuracies(loafing), _gaps(loafing)] if loafing.rows else []


def _accuracies(loafing: Loafing) -> Figure:
    palette, x = _scales(loafing)
    places = [
        {
            "method": row.method,
            "main": row.main,
            "blocks": row.blocks,
            "kind": kind,
            "mean": mean,
            "std": std,
            "subnets": row.subnets,
        }
        for row in loafing.rows
        for kind, mean, std in (
            (_IN_GROUP, row.in_group_mean, row.in_group_std),
            (_ALONE, row.alone_mean, row.alone_std),
        )
    ]
    base = alt.Chart(data(places)).encode(x, palette.colour)
    y = alt.Y(
        "mean",
        type="quantitative",
        title=f"{words_of(loafing.task).measure.in_unit(f'mean {words_of(loafing.task).measure.short} of subnets')}",
        scale=alt.Scale(zero=False),
    )
    lines = base.mark_line().encode(
        y,
        alt.StrokeDash(
            "kind",
            type="nominal",
            scale=alt.Scale(domain=[_IN_GROUP, _ALONE], range=[[1, 0], [4, 4]]),
            legend=legend([_IN_GROUP, _ALONE], lines=True),
        ),
    )
    marks = base.mark_point(filled=False, strokeWidth=2).encode(
        y,
        palette.shape,
        *palette.full_or_hollow("kind", _ALONE),
        tooltip=tooltip(
            method="method",
            main="main net",
            blocks="its blocks:d",
            kind="subnets",
            mean=words_of(loafing.task).number("mean"),
            std=f"deviation:{words_of(loafing.task).measure.form}",
            subnets="number:d",
        ),
    )
    return Figure(
        "loafing",
        "Subnets in the group and alone",
        "In group: subnets inside their main net, full marks. Alone: the same architectures trained by themselves, "
        f"hollow marks. Means over subnets and seeds. {_measured(loafing)}",
        [row_of(row, *_COLUMNS) for row in loafing.rows],
        (lines + marks).properties(height=HEIGHT),
        measure=words_of(loafing.task).key,
    )


def _gaps(loafing: Loafing) -> Figure:
    palette, x = _scales(loafing)
    rows = [row_of(pair) for pair in loafing.subnets]
    base = alt.Chart(data(rows)).encode(
        x,
        alt.Y(
            "gap",
            type="quantitative",
            title=words_of(loafing.task).difference.replace("difference", "alone − in group"),
        ),
        palette.colour,
    )
    marks = base.mark_point(opacity=0.45, size=35).encode(
        palette.shape,
        tooltip=tooltip(
            subnet="subnet",
            main="main net",
            method="method",
            seed="seed",
            in_group=words_of(loafing.task).number("in group"),
            alone=words_of(loafing.task).number("alone"),
            gap=f"gap:{words_of(loafing.task).measure.form}",
        ),
    )
    line = base.mark_line().encode(
        alt.Y(
            "mean(gap)",
            type="quantitative",
            title=words_of(loafing.task).difference.replace("difference", "alone − in group"),
        ),
        palette.dash,
    )
    zero = alt.Chart(data([{"zero": 0}])).mark_rule(opacity=0.5).encode(alt.Y("zero", type="quantitative"))
    return Figure(
        "loafing-gap",
        "Loafing: what subnets lose in the group",
        f"A mark is a subnet of one seed: the {words_of(loafing.task).quality} of its architecture trained alone less "
        f"its own inside the main net; the line is their mean. {_measured(loafing)}",
        rows,
        (zero + marks + line).properties(height=HEIGHT),
        measure=words_of(loafing.task).key,
    )


def _scales(loafing: Loafing) -> tuple[Palette, alt.X]:
    """A look for each method; and the main nets, shallow ones first."""
    methods = list(dict.fromkeys(row.method for row in loafing.rows))
    blocks = {row.main: row.blocks for row in loafing.rows}
    nets = sorted(blocks, key=lambda net: (blocks[net], net))
    x = alt.X(
        "main",
        type="nominal",
        sort=nets,
        title="main net, from shallow to deep",
        scale=alt.Scale(padding=0.4),
        axis=names_axis(nets),
    )
    return Palette(methods, "method"), x


def _measured(loafing: Loafing) -> str:
    seeds, words = seeds_in_words(loafing.seeds), words_of(loafing.task)
    return (
        f"{subject_of([loafing])}, {loafing.epochs} epochs, {seeds}; {words.accuracy} on the test "
        f"split{statistics_in_words(loafing, 'subnets')}.{failures_in_words(loafing.failed)}"
    )
