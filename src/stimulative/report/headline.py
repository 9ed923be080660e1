"""The numbers that matter first: one row for each way of training."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from stimulative.report.reported_run import ReportedRun
from stimulative.report.run_groups import Group
from stimulative.tasks import Measure


@dataclass(frozen=True)
class Headline:
    """The table of a group of runs.

    Args:
        title: What the group is called.
        rows: A row for each series, as texts by column.
    """

    title: str
    rows: list[dict[str, str]]


def headline(group: Group) -> Headline:
    """The table of a group; columns that are empty are left out."""
    rows = [{"trained": name} | _numbers(runs, group.words.measure) for name, runs in group.series.items()]
    told = [column for column in rows[0] if any(row[column] for row in rows)]
    return Headline(group.title, [{column: row[column] for column in told} for row in rows])


def _numbers(runs: Sequence[ReportedRun], measure: Measure) -> dict[str, str]:
    summaries = [run.summary for run in runs]
    main = [summary.main.quality for summary in summaries]
    spreads = [run.family.spread() for run in runs if run.family]
    members = [member for run in runs for member in run.family]
    latencies = [member.latency.median_ms for member in members if member.latency is not None]
    form = measure.form
    return {
        "seeds": str(len(runs)),
        measure.in_unit("main net"): _mean(main, form)
        + (f" ± {statistics.stdev(main):{form}}" if len(main) > 1 else ""),
        measure.in_unit("all subnets"): " ± ".join(
            _mean(values, form) for values in ([one.mean for one in spreads], [one.std for one in spreads])
        )
        if spreads
        else "",
        measure.in_unit("worst"): _mean((one.min for one in spreads), form),
        "perplexity": _mean(summary.main.perplexity for summary in summaries),
        "of all subnets": _mean(member.score.perplexity for member in members),
        "parameters (M)": _range([member.cost.parameters / 1e6 for member in members]),
        "FLOPs (M)": _range([member.cost.flops / 1e6 for member in members]),
        "latency (ms)": _range(latencies),
        "training (s)": _mean((summary.train_seconds for summary in summaries), ",.0f"),
        "memory (MiB)": _mean((summary.peak_memory_mib for summary in summaries), ",.0f"),
    }


def _mean(values: Iterable[float | None], form: str = ".2f") -> str:
    """The mean of the values that are known; nothing without any."""
    known = [value for value in values if value is not None]
    return f"{statistics.fmean(known):{form}}" if known else ""


def _range(values: Sequence[float]) -> str:
    if not values:
        return ""
    low, high = (f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in (min(values), max(values)))
    return low if low == high else f"{low} – {high}"
