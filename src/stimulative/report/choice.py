"""What was chosen under a budget: every subnet that was measured, by the cost that was limited."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import altair as alt

from stimulative import files
from stimulative.deploy import CHOICE, Choice, written
from stimulative.records import understanding
from stimulative.report.figure import Figure, Row, data, save, tooltip
from stimulative.report.style import COLOURS, HEIGHT, legend
from stimulative.report.words import Words, words_of
from stimulative.runs import CostName, Member

_AXES = {
    "latency_ms": ("latency (ms)", "~g"),
    "flops": ("FLOPs for one {sample}", "~s"),
    "parameters": ("parameters", "~s"),
}
_WITHIN, _OVER, _RUNNER, _MAIN, _CHOSEN = "within the limits", "outside the limits", "runner-up", "main net", "chosen"
_LOOKS = {  # colour, mark, size
    _OVER: ("#B0B0B0", "circle", 35),
    _WITHIN: (COLOURS[1], "circle", 45),
    _RUNNER: (COLOURS[2], "triangle-up", 90),
    _MAIN: (COLOURS[3], "square", 90),
    _CHOSEN: (COLOURS[0], "diamond", 200),
}


def draw_choice(directory: str | Path) -> list[Path]:
    """Draw ``choice.json`` of a directory beside it.

    Returns:
        The paths of the files.

    Raises:
        UsageError: If there is none, or it is damaged.
    """
    path = Path(directory) / CHOICE
    content = files.read_json(path)
    with understanding(path):
        choice = Choice.from_mapping(content)
    return save(choice_figure(choice), path.parent)


def choice_figure(choice: Choice) -> Figure:
    """Accuracy against the limited cost, with the budget as a line."""
    of_text = choice.member.score.perplexity is not None
    cost, words = choice.decided_by, words_of("text" if of_text else choice.about.task)
    rows = [row for row in _rows(choice) if row[cost] is not None]
    axis, form = _AXES[cost]
    axis = axis.format(sample=words.samples.removesuffix("s"))
    kinds = [kind for kind in _LOOKS if any(row["kind"] == kind for row in rows)]
    rows.sort(key=lambda row: kinds.index(row["kind"]))  # what matters lies on top
    low, high = _ends([row[cost] for row in rows], choice.limits.costs.get(cost))
    scale = alt.Scale(domain=[low, high], nice=False, zero=False)
    x = alt.X(
        cost,
        type="quantitative",
        title=axis,
        scale=scale,
        axis=alt.Axis(format=form, tickCount=6),
    )
    y = alt.Y("quality", type="quantitative", title=words.axis, scale=alt.Scale(zero=False, padding=14))
    base = alt.Chart(data(rows)).encode(x, y)
    colours, shapes = [[_LOOKS[kind][look] for kind in kinds] for look in (0, 1)]
    points = base.mark_point().encode(
        alt.Color("kind:N", scale=alt.Scale(domain=kinds, range=colours), legend=legend(kinds)),
        alt.Shape("kind:N", scale=alt.Scale(domain=kinds, range=shapes)),
        alt.SizeValue(
            _LOOKS[_WITHIN][2],
            condition=[{"test": {"field": "kind", "equal": kind}, "value": _LOOKS[kind][2]} for kind in kinds],
        ),
        tooltip=tooltip(
            subnet="subnet",
            kind="is",
            quality=f"{words.axis}:.2f",
            **({"perplexity": "perplexity:.2f"} if words.samples == "sequences" else {}),
            parameters="parameters:,d",
            flops="FLOPs:,d",
            latency_ms="latency (ms):.3g",
        ),
    )
    chosen = alt.Chart(data(row for row in rows if row["kind"] == _CHOSEN)).encode(x, y)
    # beside the mark, since the budget is often just to its right
    left = (choice.member.cost_in(cost) or 0.0) > low + 0.2 * (high - low)
    named = chosen.mark_text(
        align="right" if left else "left", dx=-12 if left else 10, dy=-12, fontWeight="bold"
    ).encode(text="subnet:N")
    spread = alt.Chart(data(row for row in rows if row["kind"] in (_CHOSEN, _RUNNER, _MAIN))).encode(y)
    bars = spread.mark_rule(opacity=0.4, strokeWidth=1.5, clip=True).encode(
        alt.X("low", type="quantitative", title=axis, scale=scale), alt.X2("high")
    )
    layers = [*_lines(choice, cost, x, y, (low, high)), *([bars] if cost == "latency_ms" else []), points, named]
    return Figure(
        "choice",
        f"The choice: {choice.subnet}",
        _caption(choice, cost, words),
        rows,
        alt.layer(*layers).properties(height=HEIGHT),
        measure=choice.member.score.measure,
    )


def _ends(values: Sequence[float], budget: float | None) -> tuple[float, float]:
    """Where the axis of the cost begins and ends: around all values and the budget, and never below 0."""
    known = [*values, *([] if budget is None else [budget])]
    room = 0.06 * (max(known) - min(known)) or 0.1 * max(known)
    return max(0.0, min(known) - room), max(known) + room


def _rows(choice: Choice) -> list[Row]:
    """All that was measured, the main net among it, and what each one is."""
    measured = {member.subnet: member for member in (choice.main, *choice.measured)}
    return [_row(member, _kind(member, choice)) for member in measured.values()]


def _row(member: Member, kind: str) -> Row:
    latency = member.latency
    times = (None,) * 4
    if latency is not None:
        half = latency.iqr_ms / 2
        times = (latency.median_ms, latency.iqr_ms, latency.median_ms - half, latency.median_ms + half)
    return {
        "subnet": str(member.subnet),
        "blocks": member.subnet.blocks,
        **{name: value for name, value in member.score.main_parts().items() if name != "measure" and value is not None},
        "parameters": member.cost.parameters,
        "flops": member.cost.flops,
        "latency_ms": times[0],
        "latency_iqr_ms": times[1],
        "kind": kind,
        "low": times[2],
        "high": times[3],
    }


def _kind(member: Member, choice: Choice) -> str:
    """What a subnet is, whatever matters most of it."""
    if member.subnet == choice.subnet:
        return _CHOSEN
    if member.subnet == choice.main.subnet:
        return _MAIN
    if any(member.subnet == runner.subnet for runner in choice.runners_up):
        return _RUNNER
    # of latency, only where it was measured
    limits = replace(choice.limits, max_latency_ms=None) if member.latency is None else choice.limits
    return _WITHIN if limits.allow(member) else _OVER


def _lines(choice: Choice, cost: CostName, x: alt.X, y: alt.Y, ends: tuple[float, float]) -> list[Any]:
    """The budget, upright, and the least accuracy, level."""
    layers = []
    budget, least = choice.limits.costs.get(cost), choice.limits.min_top1
    unit = words_of(choice.about.task).measure.unit
    if budget is not None:
        line = alt.Chart(data([{cost: budget}])).encode(x)
        place = (budget - ends[0]) / (ends[1] - ends[0])  # above the chart, and not over its edges
        align = "left" if place < 0.15 else "right" if place > 0.85 else "center"
        label = line.mark_text(align=align, baseline="bottom", dy=-4, text=f"at most {written(cost, budget)}")
        layers += [line.mark_rule(strokeDash=[6, 4], strokeWidth=1.5), label.encode(y=alt.value(0))]
    if least is not None:
        line = alt.Chart(data([{"quality": least}])).encode(y)
        label = line.mark_text(align="right", baseline="top", dx=-4, dy=4, text=f"at least {least:g}{unit}")
        layers += [line.mark_rule(strokeDash=[2, 3], strokeWidth=1.5), label.encode(x=alt.value("width"))]
    return layers


def _caption(choice: Choice, cost: CostName, words: Words) -> str:
    tried, latencies, costs = choice.tried, choice.latencies, choice.limits.costs
    countable: tuple[CostName, ...] = ("flops", "parameters")
    known = [f"at most {written(name, costs[name])}" for name in countable if name in costs]
    within = f" with {' and '.join(known)}" if known else ""
    how = f"found by a search among those{within or ' of any cost'}" if tried.searched else f"all{within}"
    text = (
        f"A point is a subnet; {tried.measured:,} of {tried.count:,} were measured: {how}. "
        f"{words.opening} on {choice.images:,} validation {words.samples}."
    )
    if cost == "latency_ms":
        text += (
            f" Latency of a batch of {latencies.batch}, extracted, on {latencies.device}, of {tried.timed:,} of "
            f"them: median of {latencies.rounds} rounds; bars reach half the interquartile range to each side."
        )
    return text
