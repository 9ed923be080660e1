"""A picture with its numbers: saved as PNG, SVG and CSV."""

from __future__ import annotations

import csv
import io
import json
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import altair as alt

from stimulative import files
from stimulative.records import Record
from stimulative.report import style
from stimulative.runs import Scored

Row = dict[str, Any]
"""A row of the data of a chart, or of a table."""
VEGA_LITE = "_".join(alt.SCHEMA_VERSION.split(".")[:2])
"""The version of Vega-Lite that charts are written in, as vl-convert calls it."""
_KINDS = ("png", "svg", "csv")


@dataclass(frozen=True)
class Figure:
    """One picture.

    Args:
        name: The name of its files.
        title: What it shows.
        caption: What was measured: of which images, with which statistics, how often.
        rows: The numbers behind it, at least one row, the first with all columns.
        chart: The picture, without a title and in no particular width.
        width: The width of the chart as a file.
        least_width: The width in pixels below which the chart is not legible; the page scrolls it instead.
        measure: What the quality of nets is called in its table, as files call it.
    """

    name: str
    title: str
    caption: str
    rows: list[Row]
    chart: Any
    width: int = style.WIDTH
    least_width: int = 0
    measure: str = "quality"

    @property
    def columns(self) -> list[str]:
        """The columns of its table."""
        return list(self.rows[0])

    def heading(self, column: str) -> str:
        """What a column is called, in files and on pages."""
        return column.replace("quality", self.measure)

    def csv(self) -> str:
        """The numbers as the text of a CSV file."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(map(self.heading, self.columns))
        writer.writerows([_cell(row.get(column)) for column in self.columns] for row in self.rows)
        return text.getvalue()

    def spec(self) -> style.Spec:
        """The chart for a page, in Vega-Lite: as wide as its place, in the page's colours, with no title of its own."""
        sized = self.chart.properties(width="container", autosize=alt.AutoSizeParams(type="fit-x", contains="padding"))
        spec = sized.to_dict()
        del spec["$schema"]
        return spec | {"config": style.config(ink="currentColor", paper="transparent", font=style.FONT)}

    def svg(self) -> str:
        """The picture for a file: titled, on white."""
        import vl_convert

        width = max(self.width, self.least_width)
        title = alt.Title(self.title, subtitle=textwrap.wrap(self.caption, int(width / 5.8)))
        sized = self.chart if isinstance(self.chart, alt.HConcatChart) else self.chart.properties(width=width)
        spec = sized.properties(title=title, padding=12).to_dict() | {"config": style.config()}
        return vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE)


def save(figure: Figure, directory: Path, *, numbers: str | None = None) -> list[Path]:
    """Write NAME.png, NAME.svg and NAME.csv.

    Args:
        figure: The picture.
        directory: Where to.
        numbers: The name of the CSV file, without its ending, where it is not that of the picture.

    Returns:
        Their paths.
    """
    import vl_convert

    svg = figure.svg()
    names = (figure.name, figure.name, numbers or figure.name)
    paths = [directory / f"{name}.{kind}" for name, kind in zip(names, _KINDS, strict=True)]
    png = vl_convert.svg_to_png(svg, scale=2)
    for path, content in zip(paths, (png, svg.encode(), figure.csv().encode()), strict=True):
        with files.replacing(path) as temporary:
            temporary.write_bytes(content)
    return paths


def save_all(figures: Iterable[Figure], directory: Path) -> list[Path]:
    """Write the files of several figures; returns their paths."""
    return [path for figure in figures for path in save(figure, directory)]


def row_of(record: Record, *first: str) -> Row:
    """A record as a row, with some columns before the others."""
    mapping = record.to_mapping()
    if isinstance(record, Scored):
        measure: str = getattr(record, "measure")  # noqa: B009, each such record has it
        mapping = {key.replace(measure, "quality"): value for key, value in mapping.items()}
    return {column: mapping[column] for column in first} | mapping


def data(rows: Iterable[Row]) -> alt.Data:
    """Rows as the data of a chart, to six digits, since nobody sees more."""
    return alt.Data(values=[{key: _rounded(value) for key, value in row.items()} for row in rows])


def thinned(rows: Sequence[Row], limit: int) -> list[Row]:
    """Every n-th of the rows, so that at most ``limit`` are left."""
    return list(rows[:: -(-len(rows) // max(1, limit))]) if rows else []


def tooltip(**titles: str) -> list[alt.Tooltip]:
    """What hovering shows: titles by field, each with its type and format as in ``quality="Q.2f"``."""
    shown = []
    for field, text in titles.items():
        title, _, kind = text.partition(":")
        if kind:
            shown.append(alt.Tooltip(field, type="quantitative", title=title, format=kind))
        else:
            shown.append(alt.Tooltip(field, type="nominal", title=title))
    return shown


def _rounded(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value
