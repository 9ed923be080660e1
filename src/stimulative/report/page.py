"""The report's page: one file that needs nothing else, neither a network nor a folder beside it."""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib.resources
import json
from collections.abc import Sequence
from typing import Any

from stimulative import __version__
from stimulative.report.figure import VEGA_LITE
from stimulative.report.headline import Headline
from stimulative.report.provenance import Provenance
from stimulative.report.sections import Section

_ROWS = 2000
"""So many rows all tables of a page show at most."""


def render(
    *,
    title: str,
    introduction: str,
    headlines: Sequence[Headline],
    sections: Sequence[Section],
    provenance: Sequence[Provenance],
    notes: Sequence[str],
    folder: str,
) -> str:
    """The page as text; the same for the same content.

    Args:
        title: Its title.
        introduction: What it is about, in a sentence.
        headlines: The tables of the summary.
        sections: The figures.
        provenance: How it was made.
        notes: What else there is to say about that.
        folder: Where the files of the figures are, seen from the page.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    environment.filters["cell"] = cell
    figures = [figure for section in sections for figure in section.figures]
    script = _script()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.from_string(_part("page.html")).render(
        # nothing is fetched and no other script runs, whatever a file of a run may hold
        policy=f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'",
        version=__version__,
        title=title,
        introduction=introduction,
        headlines=headlines,
        sections=sections,
        provenance=provenance,
        notes=notes,
        folder=folder,
        limit=max(20, min(300, _ROWS // max(1, len(figures)))),
        charts={figure.name: figure.spec() for figure in figures},
        style=Markup(_part("page.css")),
        bundle=Markup(script),
    )


def cell(value: Any) -> str:
    """A number or text as a table shows it."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.2f}" if abs(value) >= 0.1 or value == 0 else f"{value:.3g}"
    return value if isinstance(value, str) else json.dumps(value)


@functools.cache
def _script() -> str:
    """Vega, Vega-Lite and Vega-Embed, and the few lines that draw the charts."""
    import vl_convert

    script = vl_convert.javascript_bundle(_part("page.js"), vl_version=VEGA_LITE)
    return script.replace("</script", "<\\/script")


def _part(name: str) -> str:
    return importlib.resources.files("stimulative.report").joinpath(name).read_text(encoding="utf-8")
