"""Pictures of a comparison: every subnet of every method, and the methods' differences with their intervals."""

from __future__ import annotations

import json
import re
import statistics
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np

from stimulative.errors import UsageError
from stimulative.report.figure import Figure, Row, data, save, tooltip
from stimulative.report.reported_run import read_run
from stimulative.report.run_groups import MeasuredSubnet, grouped
from stimulative.report.style import HEIGHT, Palette
from stimulative.report.words import Words, failures_in_words, span, statistics_in_words, subject_of, words_of
from stimulative.studies import ComparedRun, Comparison, ComparisonRow

SUBNETS = "comparison-subnets"
"""The name of the file with the numbers of the picture; ``comparison.csv`` is the table of methods."""

_LEFT, _RIGHT = 480, 420
_LINE, _GAP, _LETTERS = 15, 14, 36
"""The height of a line of a row's label and the space between rows in pixels; the letters of a line."""
_HALF = 0.36
"""Half the height of a distribution where it is highest, as a share of a row."""
_TICK = 8
"""Half the height of a median in pixels."""
_POINTS = 64
"""A density is drawn with so many."""
_MEASURES = {"main": "main net", "all": "mean of all subnets"}
_DIFFERENCE = "method", "reference", "n", "mean", "std", "low", "high", "sentence"


def draw_comparison(directory: str | Path) -> list[Path]:
    """Draw the picture of ``comparison.json`` and its runs into their directory.

    Returns:
        The paths of the files: ``comparison.png``, ``comparison.svg``, ``comparison-subnets.csv``.

    Raises:
        UsageError: If no run has its subnets measured, or a file is damaged.
    """
    directory = Path(directory)
    return save(comparison_figure(Comparison.read(directory), directory), directory, numbers=SUBNETS)


def comparison_figures(comparison: Comparison, directory: Path) -> list[Figure]:
    """What a report shows of a comparison beside the figures of its runs; none where no run has finished."""
    if not comparison.rows:
        return []
    compared = _Compared.read(comparison, directory)
    return [_distribution_figure(compared), *_difference_figures(compared)]


def comparison_figure(comparison: Comparison, directory: Path) -> Figure:
    """Two charts side by side; for a file, since it is too wide for a page on a phone."""
    compared = _Compared.read(comparison, directory)
    if not compared.subnets:
        raise UsageError(f"no run of {directory} has its subnets measured; run the same stimulative compare again")
    charts = alt.hconcat(_by_blocks(compared), _distributions(compared, width=_RIGHT), spacing=30)
    return Figure(
        "comparison",
        f"Every subnet of {compared.subject}",
        f"{compared.conditions} Left: a mark is a subnet, its mean over seeds; lines are means. Right: {_READ}",
        compared.subnet_rows(),
        charts.resolve_scale(color="shared", shape="shared"),
        width=_LEFT + _RIGHT + 200,
        measure=compared.words.key,
    )


_READ = (
    "all subnets of all seeds, their density, quartiles (bar) and median (tick), and the mean of the main nets (mark). "
    "In numbers: all subnets, mean ± standard deviation over subnets; main net, mean over seeds."
)


@dataclass(frozen=True)
class _Compared:
    """What the pictures of a comparison are made of.

    Args:
        comparison: What its file says.
        subnets: Every measured subnet of every run.
    """

    comparison: Comparison
    subnets: list[MeasuredSubnet]

    @classmethod
    def read(cls, comparison: Comparison, directory: Path) -> _Compared:
        subnets = [
            MeasuredSubnet(name, run.summary.seed, member)
            for place, name in names_of(comparison, directory).items()
            for run in [read_run(place)]
            for member in run.family
        ]
        return cls(comparison, subnets)

    @property
    def rows(self) -> tuple[ComparisonRow, ...]:
        return self.comparison.rows

    @property
    def names(self) -> list[str]:
        return [row.method for row in self.rows]

    @property
    def palette(self) -> Palette:
        methods = {_name_of(run): run.summary.method for run in self.comparison.runs}
        return Palette({name: methods.get(name, name) for name in self.names}, "method")

    @property
    def words(self) -> Words:
        return words_of(self.comparison.task)

    @property
    def subject(self) -> str:
        return subject_of([self.comparison.runs[0].summary])

    @property
    def conditions(self) -> str:
        epochs = span(run.summary.epochs for run in self.comparison.runs)
        seeds = [row.seeds for row in self.rows]
        each = " each" if len(set(seeds)) > 1 else ""
        return (
            f"{span(seeds)} {'seed' if max(seeds) == 1 else 'seeds'}{each}, {epochs} epochs; "
            f"{self.words.accuracy} on the test split{self._recalibrated}."
            f"{failures_in_words(self.comparison.failed)}"
        )

    @property
    def _recalibrated(self) -> str:
        any_statistics = any(run.summary.subnets.calibration_images for run in self.comparison.runs)
        return statistics_in_words(self.comparison, "each subnet") if any_statistics else ""

    @property
    def labels(self) -> list[list[str]]:
        return [
            [*_lines(row.method), f"all {row.all_mean:.1f} ± {row.all_std:.1f}, main {row.main_mean:.1f}"]
            for row in self.rows
        ]

    @property
    def height(self) -> int:
        return max(HEIGHT, len(self.rows) * _least_row(self.labels))

    def x(self, column: str) -> alt.X:
        """Accuracy from left to right."""
        return alt.X(column, type="quantitative", scale=self.accuracies, title=self.words.axis)

    @property
    def accuracies(self) -> alt.Scale:
        shown = [one.quality for one in self.subnets] + [row.main_mean for row in self.rows]
        return alt.Scale(domain=[float(np.floor(min(shown))), float(np.ceil(max(shown)))], nice=True)

    def quality(self) -> dict[str, list[float]]:
        """The accuracies of all subnets of all seeds, by method."""
        measured = grouped(self.subnets, lambda one: one.series)
        return {name: [one.quality for one in measured.get(name, [])] for name in self.names}

    def subnet_rows(self) -> list[Row]:
        """Each subnet of each method: its mean over seeds."""
        groups = grouped(self.subnets, lambda one: (one.series, one.member.subnet))
        return [
            {
                "method": method,
                "subnet": str(subnet),
                "blocks": subnet.blocks,
                "quality": statistics.fmean(one.quality for one in measured),
                "seeds": len(measured),
            }
            | _mean_perplexity(measured)
            for (method, subnet), measured in groups.items()
        ]


def _mean_perplexity(measured: Sequence[MeasuredSubnet]) -> Row:
    """The mean perplexity of a subnet over seeds, of texts; nothing for images."""
    scores = [one.member.score for one in measured]
    known = [score.perplexity for score in scores if score.perplexity is not None]
    return {"perplexity": statistics.fmean(known)} if known else {}


def names_of(comparison: Comparison, directory: Path) -> dict[Path, str]:
    """What the runs of a comparison are called in it, by their directories."""
    return {
        directory / (run.run or f"{run.summary.method}-seed{run.summary.seed}"): _name_of(run)
        for run in comparison.runs
    }


def _name_of(run: ComparedRun) -> str:
    return run.variant or str(run.summary.method)


def _by_blocks(compared: _Compared) -> Any:
    names, palette = compared.names, compared.palette
    # marks of several methods stand beside each other, all of them within the place of their number of blocks
    step = min(0.16, 0.5 / max(1, len(names) - 1))
    shift = {name: (place - (len(names) - 1) / 2) * step for place, name in enumerate(names)}
    rows = [row | {"place": row["blocks"] + shift[row["method"]]} for row in compared.subnet_rows()]
    # the rows beside this chart, which have the same marks, are its legend
    base = alt.Chart(data(rows)).encode(palette.colour.legend(None))

    def y(column: str) -> alt.Y:
        return alt.Y(column, type="quantitative", scale=compared.accuracies, title=compared.words.axis)

    marks = base.mark_point(opacity=0.5, size=28 if len(names) <= 4 else 18).encode(
        alt.X(
            "place",
            type="quantitative",
            title="blocks that run",
            scale=alt.Scale(zero=False, nice=False, padding=12),
            axis=alt.Axis(tickMinStep=1, format="d"),
        ),
        y("quality"),
        palette.shape.legend(None),
    )
    means = base.mark_line().encode(alt.X("blocks", type="quantitative"), y("mean(quality)"), palette.dash)
    return (marks + means).properties(width=_LEFT, height=compared.height)


def _distribution_figure(compared: _Compared) -> Figure:
    by_method = compared.quality()
    rows = []
    for row in compared.rows:
        quality = by_method[row.method]
        rows.append(
            {"method": row.method, "seeds": row.seeds, "main_mean": row.main_mean, "all_mean": row.all_mean}
            | {"all_std": row.all_std, "min": min(quality, default=None), "max": max(quality, default=None)}
            | _quartiles(quality)
        )
    return Figure(
        "comparison",
        "All subnets of each method",
        f"{compared.subject}. {compared.conditions} A row is a method: {_READ}",
        rows,
        _distributions(compared),
        least_width=_least_width(compared.labels),
        measure=compared.words.key,
    )


def _distributions(compared: _Compared, width: int | None = None) -> Any:
    """A row a method; all in one chart of two numbers, whose width can follow that of a page."""
    colour, shape = compared.palette.colour.legend(None), compared.palette.shape.legend(None)
    x, by_method = compared.x, compared.quality()
    tick = _TICK * len(compared.rows) / compared.height
    outlines, summaries = [], []
    for place, row in enumerate(compared.rows):
        quality = by_method[row.method]
        if quality:
            outlines += [
                {"method": row.method, "quality": at, "low": place - _HALF * density, "high": place + _HALF * density}
                for at, density in _density(np.array(quality))
            ]
        summaries.append(
            {"method": row.method, "place": place, "main": row.main_mean, "all": row.all_mean, "std": row.all_std}
            | {"seeds": row.seeds, "top": place - tick, "bottom": place + tick}
            | _quartiles(quality)
        )
    number = compared.words.number
    shown = tooltip(
        method="method",
        seeds="seeds:d",
        main=number("main net"),
        all=number("all subnets"),
        std=f"±:{compared.words.measure.form}",
    )
    shapes = alt.Chart(data(outlines)).mark_area(opacity=0.35, orient="vertical")
    base = alt.Chart(data(summaries))
    at_row = alt.Y("place", type="quantitative")
    bars = base.mark_rule(strokeWidth=5).encode(x("low_quartile"), alt.X2("high_quartile"), at_row, colour)
    medians = base.mark_rule(strokeWidth=2).encode(x("median"), alt.Y("top", type="quantitative"), alt.Y2("bottom"))
    mains = base.mark_point(size=95, stroke="currentColor", strokeWidth=1).encode(
        x("main"), at_row, colour, shape, tooltip=shown
    )
    layers = (
        shapes.encode(x("quality"), _in_rows("low", compared.labels, compared.height), alt.Y2("high"), colour)
        + bars
        + medians
        + mains
    )
    sized = layers.properties(height=compared.height)
    return sized if width is None else sized.properties(width=width)


def _quartiles(values: Sequence[float]) -> dict[str, float | None]:
    """The quartiles of some numbers; of none, None."""
    found = map(float, np.quantile(values, (0.25, 0.5, 0.75))) if len(values) else (None,) * 3
    return dict(zip(("low_quartile", "median", "high_quartile"), found, strict=True))


def _density(values: np.ndarray) -> list[tuple[float, float]]:
    """A density with normal kernels of Silverman's width, from the least value to the greatest; 1 where highest."""
    low, high = float(values.min()), float(values.max())
    spread = min(float(values.std()), float(np.subtract(*np.quantile(values, (0.75, 0.25)))) / 1.34)
    width = max(1.06 * spread * len(values) ** -0.2, (high - low) / 50, 0.02)
    least = max(0.0, 0.05 - (high - low))  # values that are all the same are to be seen
    at = np.linspace(low - least, high + least, _POINTS)
    density = np.exp(-0.5 * ((at[:, None] - values[None, :]) / width) ** 2).sum(1)
    return list(zip(at.tolist(), (density / density.max()).tolist(), strict=True))


def _difference_figures(compared: _Compared) -> list[Figure]:
    """The differences from the reference, a picture each for main nets and subnets; none in files without them."""
    figures, comparison = [], compared.comparison
    unit = compared.words.measure.difference.strip()
    in_points = f"in {unit}: " if unit else ""
    for measure, net in _MEASURES.items():
        rows = [
            {key: getattr(one, key) for key in _DIFFERENCE}
            for one in comparison.differences
            if (one.reference, one.measure) == (comparison.reference, measure) and one.mean is not None
        ]
        if rows:
            figures.append(
                Figure(
                    f"differences-{measure}",
                    f"Differences from {rows[0]['reference']}: {net}",
                    f"{compared.subject}; a method's {compared.words.quality} less that of {rows[0]['reference']} with "
                    f"the same seed, {in_points}mean, and its 95 % interval (Student's) where there are two seeds or "
                    "more. Where the "
                    "interval holds 0, these seeds do not tell the two apart. Each interval stands alone: of "
                    "differences that are 0 in truth, one in twenty leaves 0 out by chance.",
                    rows,
                    _intervals(rows, compared),
                    least_width=_least_width([_lines(row["method"]) for row in rows]),
                )
            )
    return figures


def _intervals(rows: Sequence[Row], compared: _Compared) -> Any:
    palette = compared.palette
    labels = [_lines(row["method"]) for row in rows]
    height = len(rows) * max(44, _least_row(labels))
    drawn = [
        row | {"place": place, "text": f"{row['mean']:+.{compared.words.measure.digits}f}"}
        for place, row in enumerate(rows)
    ]

    def x(column: str) -> alt.X:
        return alt.X(column, type="quantitative", title=compared.words.difference)

    base, colour = alt.Chart(data(drawn)).encode(_in_rows("place", labels, height)), palette.colour.legend(None)
    zero = alt.Chart(data([{"mean": 0}])).mark_rule(strokeDash=[3, 3], opacity=0.7).encode(x("mean"))
    known = base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=2.5)
    shown = tooltip(method="method", n="seeds:d", sentence="difference")
    marks = base.mark_point(size=80).encode(x("mean"), colour, palette.shape.legend(None), tooltip=shown)
    texts = base.mark_text(dy=-13).encode(x("mean"), alt.Text("text", type="nominal"))
    intervals = known.encode(x("low"), alt.X2("high"), colour)
    return (zero + intervals + marks + texts).properties(height=height)


def _in_rows(column: str, labels: Sequence[Sequence[str]], height: int) -> alt.Y:
    """Rows from above, each with a text of several lines, the middle of which is at the middle of the row."""
    up = _LINE * len(labels) / height / 2  # a label's first line stands where its tick is: less than half a row higher
    axis = alt.Axis(
        values=[round(place - up * (len(lines) - 1), 4) for place, lines in enumerate(labels)],
        labelExpr=f"{json.dumps([list(lines) for lines in labels])}[round(datum.value)]",
        labelLineHeight=_LINE,
        labelLimit=0,
        labelOverlap=False,
        ticks=False,
        grid=False,
        domain=False,
        title=None,
    )
    scale = alt.Scale(domain=[-0.5, len(labels) - 0.5], nice=False, zero=False, reverse=True)
    return alt.Y(column, type="quantitative", scale=scale, axis=axis)


def _least_row(labels: Sequence[Sequence[str]]) -> int:
    return max(map(len, labels)) * _LINE + _GAP


def _least_width(labels: Sequence[Sequence[str]]) -> int:
    return round(6.5 * max(len(line) for lines in labels for line in lines)) + 200


def _lines(name: str) -> list[str]:
    """A name on several lines, broken after colons, or anywhere where these are too far from each other."""
    lines = [""]
    for part in re.findall(r"[^:]+:?|:", name):
        if lines[-1] and len(lines[-1]) + len(part) > _LETTERS:
            lines.append("")
        lines[-1] += part
    return [piece for line in lines for piece in textwrap.wrap(line, _LETTERS) or [line]]
