"""Network loafing, as in Fig. 2 of the poster: subnets inside main nets of several depths, and trained alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import altair as alt

from stimulative.report.contents import read_study
from stimulative.report.figure import Figure, data, save_all, tooltip
from stimulative.report.series import failures, seeds_in_words
from stimulative.report.style import HEIGHT, Palette, legend, names_axis
from stimulative.report.words import words_of

_KINDS = {"in group": "in_group", "alone": "alone"}


def draw_loafing(directory: str | Path) -> list[Path]:
    """Draw the pictures of ``loafing.json`` into its directory.

    Returns:
        The paths of the files.
    """
    return save_all(loafing_figures(Path(directory)), Path(directory))


def loafing_figures(directory: Path) -> list[Figure]:
    """Accuracy in the group and alone, and the gap between them, by main net."""
    study = read_study(directory, "loafing")
    if not study["rows"]:
        return []
    return [_accuracies(study), _gaps(study)]


def _accuracies(study: dict[str, Any]) -> Figure:
    palette, x = _scales(study)
    places = [
        {
            "method": row["method"],
            "main": row["main"],
            "blocks": row["blocks"],
            "kind": kind,
            "mean": row[f"{key}_mean"],
            "std": row[f"{key}_std"],
            "subnets": row["subnets"],
        }
        for row in study["rows"]
        for kind, key in _KINDS.items()
    ]
    base = alt.Chart(data(places)).encode(x, palette.colour)
    y = alt.Y(
        "mean",
        type="quantitative",
        title=f"mean {words_of(study['rows']).axis.replace(' (%)', '')} of subnets (%)",
        scale=alt.Scale(zero=False),
    )
    lines = base.mark_line().encode(
        y,
        alt.StrokeDash(
            "kind",
            type="nominal",
            scale=alt.Scale(domain=list(_KINDS), range=[[1, 0], [4, 4]]),
            legend=legend(list(_KINDS), lines=True),
        ),
    )
    marks = base.mark_point(filled=False, strokeWidth=2).encode(
        y,
        palette.shape,
        **palette.full_or_hollow("kind", "alone"),
        tooltip=tooltip(
            method="method",
            main="main net",
            blocks="its blocks:d",
            kind="subnets",
            mean="mean (%):.2f",
            std="deviation:.2f",
            subnets="number:d",
        ),
    )
    return Figure(
        "loafing",
        "Subnets in the group and alone",
        "In group: subnets inside their main net, full marks. Alone: the same architectures trained by themselves, "
        f"hollow marks. Means over subnets and seeds. {_measured(study)}",
        study["rows"],
        (lines + marks).properties(height=HEIGHT),
    )


def _gaps(study: dict[str, Any]) -> Figure:
    palette, x = _scales(study)
    rows = study["subnets"]
    base = alt.Chart(data(rows)).encode(
        x, alt.Y("gap", type="quantitative", title="alone − in group (points)"), palette.colour
    )
    marks = base.mark_point(opacity=0.45, size=35).encode(
        palette.shape,
        tooltip=tooltip(
            subnet="subnet",
            main="main net",
            method="method",
            seed="seed",
            in_group="in group (%):.2f",
            alone="alone (%):.2f",
            gap="gap:.2f",
        ),
    )
    line = base.mark_line().encode(
        alt.Y("mean(gap)", type="quantitative", title="alone − in group (points)"), palette.dash
    )
    zero = alt.Chart(data([{"zero": 0}])).mark_rule(opacity=0.5).encode(alt.Y("zero", type="quantitative"))
    return Figure(
        "loafing-gap",
        "Loafing: what subnets lose in the group",
        "A mark is a subnet of one seed: the accuracy of its architecture trained alone less its own inside the main "
        f"net; the line is their mean. {_measured(study)}",
        rows,
        (zero + marks + line).properties(height=HEIGHT),
    )


def _scales(study: dict[str, Any]) -> tuple[Palette, alt.X]:
    """A look for each method; and the main nets, shallow ones first."""
    methods = list(dict.fromkeys(row["method"] for row in study["rows"]))
    blocks = {row["main"]: row["blocks"] for row in study["rows"]}
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


def _measured(study: dict[str, Any]) -> str:
    seeds, words = seeds_in_words(study["seeds"]), words_of(study["rows"])
    return (
        f"{study['model']} on {study['data']}, {study['epochs']} epochs, {seeds}; {words.accuracy} on the test "
        f"split{words.recalibrated.format(of='subnets')}.{failures(study)}"
    )
