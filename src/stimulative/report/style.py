"""How every picture looks: colours, marks and dashes of what is told apart, and the colours of paper and ink."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import altair as alt

Spec = dict[str, Any]
"""A part of a chart as Vega-Lite's JSON."""
Channel = TypeVar("Channel", alt.Color, alt.Fill, alt.Shape, alt.Stroke)

# Okabe and Ito's colours, which people with any colour vision can tell apart, with grey for black, which a dark page
# hides; after them three more, for comparisons of many methods
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C8C8C", "#7A4FBF", "#A65628", "#66A61E")
SHAPES = (
    *("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-right"),
    *("triangle-left", "arrow", "wedge"),
)
DASHES = (
    *([1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [12, 4], [4, 2, 1, 2], [1, 3]),
    *([10, 2, 2, 2, 2, 2], [3, 6], [14, 3, 4, 3]),
)
_METHODS = {"common": 0, "stimulative": 1}

_INK, _PAPER = "#1b1f24", "#ffffff"
_FONT_SIZE = 12
WIDTH, HEIGHT = 620, 320
"""The size of a chart as a file, in pixels of which the PNG has two for one."""
FONT = "system-ui, sans-serif"
"""The fonts of a page; charts need their names to measure texts."""


class Palette:
    """A colour, a mark and a dash for each of several things, so that none is told by its colour alone.

    A method has the same ones in every picture, and nothing else has them. When all have been given, they come again in
    other combinations.

    Args:
        names: What is told apart, in order, and the method of each; of several that have the same method, only one that
            is called like the method itself has its looks.
        field: The column of the data that holds the name.
    """

    def __init__(self, names: Mapping[str, str | None] | Sequence[str], field: str = "series") -> None:
        methods = dict(names) if isinstance(names, Mapping) else {name: name for name in names}
        self.names = list(methods)
        self.field = field
        given = list(methods.values())
        fixed = {
            name: _METHODS[method]
            for name, method in methods.items()
            if method in _METHODS and (given.count(method) == 1 or name == method)
        }
        free = [number for number in range(len(COLOURS)) if number not in _METHODS.values()]
        others = [name for name in self.names if name not in fixed]
        self._colours = fixed | {name: free[place % len(free)] for place, name in enumerate(others)}
        self._marks = fixed | {
            name: (free[place % len(free)] + place // len(free)) % len(SHAPES) for place, name in enumerate(others)
        }

    def colour_of(self, name: str) -> str:
        """The colour of one thing."""
        return COLOURS[self._colours[name]]

    @property
    def colour(self) -> alt.Color:
        """Colour by name."""
        return self._by_name(alt.Color, self.colour_of)

    def full_or_hollow(self, column: str, hollow: str) -> tuple[alt.Fill, alt.FillOpacityValue]:
        """The colour inside marks by name, and none where a column has a certain value."""
        empty = alt.FillOpacityValue(1, condition={"test": {"field": column, "equal": hollow}, "value": 0})
        return self._by_name(alt.Fill, self.colour_of), empty

    @property
    def stroke(self) -> alt.Stroke:
        """The colour of outlines by name."""
        return self._by_name(alt.Stroke, self.colour_of)

    @property
    def shape(self) -> alt.Shape:
        """Mark by name."""
        return self._by_name(alt.Shape, lambda name: SHAPES[self._marks[name]])

    @property
    def dash(self) -> alt.StrokeDashValue:
        """Dash by name; the legend shows marks, whose outlines it would spoil."""
        conditions = [
            {"test": {"field": self.field, "equal": name}, "value": DASHES[self._marks[name]]} for name in self.names
        ]
        return alt.StrokeDashValue([1, 0], condition=conditions)

    def _by_name(self, channel: Callable[..., Channel], look: Callable[[str], str]) -> Channel:
        scale = alt.Scale(domain=self.names, range=[look(name) for name in self.names])
        return channel(self.field, type="nominal", scale=scale, legend=legend(self.names))


def legend(names: Sequence[str], *, lines: bool = False) -> alt.Legend:
    """A legend below the chart, in as many columns as its place has room for; of lines long enough to see dashes."""
    longest = 7 * max(map(len, names), default=0) + 40
    # the width of the chart itself would not do: it follows from the layout, of which the legend is a part
    room = f"((containerSize()[0] || {WIDTH}) - 60)"
    return alt.Legend(
        orient="bottom",
        title=None,
        columns=alt.ExprRef(f"max(1, floor({room} / {longest}))"),
        labelLimit=alt.ExprRef(f"{room} - 30"),
        symbolSize=300 if lines else 80,
    )


def names_axis(names: Sequence[str]) -> alt.Axis:
    """An axis that shows every name, slanted or upright where they are too long for a phone."""
    level = 8 * sum(map(len, names)) + 8 * len(names) < 260
    return alt.Axis(labelAngle=0 if level else -45 if len(names) <= 10 else -90, labelOverlap=False, labelLimit=120)


def config(*, ink: str = _INK, paper: str = _PAPER, font: str = "sans-serif") -> Spec:
    """The colours and sizes of a chart's texts and lines, as Vega-Lite's configuration.

    Args:
        ink: The colour of texts and axes; ``currentColor`` is that of the page around the chart.
        paper: The colour behind the chart.
        font: The font of all texts.
    """
    text = {"labelColor": ink, "titleColor": ink, "labelFontSize": _FONT_SIZE, "titleFontSize": _FONT_SIZE}
    axis = {
        "domainColor": ink,
        "domainOpacity": 0.5,
        "tickColor": ink,
        "tickOpacity": 0.5,
        "gridColor": ink,
        "gridOpacity": 0.12,
        "titleFontWeight": "normal",
        "titlePadding": 8,
        "labelOverlap": True,
    }
    return {
        "aria": False,  # the chart's description and its table speak for thousands of marks
        "background": paper,
        "font": font,
        "view": {"stroke": None},
        "axis": text | axis,
        "axisX": {"grid": False, "labelFlush": False},
        "axisY": {"labelPadding": 5},
        "header": {"labelColor": ink, "labelFontSize": _FONT_SIZE},
        "legend": text
        | {"symbolStrokeWidth": 2, "symbolOpacity": 1, "columnPadding": 16}
        | {"layout": {"bottom": {"anchor": "start", "direction": "vertical", "margin": 4}}},
        "title": {
            "anchor": "start",
            "frame": "group",
            "color": ink,
            "fontSize": 15,
            "subtitleColor": ink,
            "subtitleFontSize": _FONT_SIZE,
            "offset": 14,
        },
        "rule": {"color": ink},
        "text": {"color": ink, "fontSize": _FONT_SIZE},
        "line": {"strokeWidth": 2},
        "point": {"filled": True, "size": 55, "opacity": 1},
    }
