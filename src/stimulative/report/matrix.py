"""Subnet architectures inside main nets, as in Tables 2 and 3 of the poster; the diagonal is trained alone."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import altair as alt

from stimulative.report.figure import Figure, data, row_of, save_all, tooltip
from stimulative.report.style import WIDTH
from stimulative.report.words import failures_in_words, seeds_in_words, statistics_in_words, subject_of, words_of
from stimulative.studies import Matrix

# light to dark, one hue
_STOPS = ((0xF2, 0xF7, 0xFC), (0x9E, 0xCA, 0xE1), (0x42, 0x92, 0xC6), (0x08, 0x45, 0x94))
_CELL = 46


def draw_matrix(directory: str | Path) -> list[Path]:
    """Draw the picture of ``matrix.json`` into its directory.

    Returns:
        The paths of the files.
    """
    return save_all(matrix_figures(Matrix.read(Path(directory))), Path(directory))


def matrix_figures(matrix: Matrix) -> list[Figure]:
    """A heat map with a row for each subnet and a column for each main net; none where no run has finished."""
    if not matrix.cells:
        return []
    nets, words = list(matrix.nets), words_of(matrix.task)
    form = words.measure.form
    method = f", method {matrix.method}" if matrix.method else ""
    rows = [row_of(cell) for cell in matrix.cells]
    low, high = min(cell.mean for cell in matrix.cells), max(cell.mean for cell in matrix.cells)
    drawn = []
    for cell, row in zip(matrix.cells, rows, strict=True):
        fill = colour((cell.mean - low) / ((high - low) or 1))
        alone = cell.subnet == cell.main
        drawn.append(
            row
            | {"fill": fill, "ink": ink_on(fill), "alone": alone, "text": f"{cell.mean:.{words.measure.digits - 1}f}"}
        )
    base = alt.Chart(data(drawn)).encode(
        alt.X("main", type="nominal", sort=nets, scale=alt.Scale(domain=nets), title="main net", axis=_axis("top")),
        alt.Y("subnet", type="nominal", sort=nets, scale=alt.Scale(domain=nets), title="subnet", axis=_axis("left")),
        tooltip=tooltip(
            subnet="subnet",
            main="inside main net",
            mean=f"{words.axis}:{form}",
            std=f"deviation:{form}",
            seeds="seeds:d",
        ),
    )
    rectangles = base.mark_rect().encode(alt.Fill("fill", type="nominal", scale=None))
    outlines = base.transform_filter("datum.alone").mark_rect(filled=False, stroke="#D55E00", strokeWidth=3)
    texts = base.mark_text().encode(alt.Text("text", type="nominal"), alt.Color("ink", type="nominal", scale=None))
    return [
        Figure(
            "matrix",
            "Subnets inside main nets",
            f"{words.measure.in_unit(words.opening)} on the test split of each subnet inside each main "
            f"net{statistics_in_words(matrix, 'each')}, mean over "
            f"{seeds_in_words(matrix.seeds)}. Outlined: the net trained alone. {subject_of([matrix])}, "
            f"{matrix.epochs} epochs{method}.{failures_in_words(matrix.failed)}",
            rows,
            (rectangles + outlines + texts).properties(height=max(120, _CELL * len(nets))),
            least_width=0 if _CELL * len(nets) < WIDTH / 2 else _CELL * len(nets) + 60,
        )
    ]


def colour(share: float) -> str:
    """The colour of a cell: from the lightest at 0 to the darkest at 1."""
    place = min(max(share, 0.0), 1.0) * (len(_STOPS) - 1)
    below = min(int(place), len(_STOPS) - 2)
    mixed = (round(a + (b - a) * (place - below)) for a, b in zip(_STOPS[below], _STOPS[below + 1], strict=True))
    return "#" + "".join(f"{part:02x}" for part in mixed)


def ink_on(fill: str) -> str:
    """Black or white, whichever stands out more from a colour."""
    light = luminance(fill)
    return "#000000" if (light + 0.05) / 0.05 > 1.05 / (light + 0.05) else "#ffffff"


def luminance(fill: str) -> float:
    """The relative luminance of a colour, as the Web Content Accessibility Guidelines define it."""
    parts = (int(fill[start : start + 2], 16) / 255 for start in (1, 3, 5))
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _axis(orient: Literal["top", "left"]) -> alt.Axis:
    return alt.Axis(orient=orient, titleAnchor="start", labelAngle=0, domain=False, ticks=False, grid=False)
