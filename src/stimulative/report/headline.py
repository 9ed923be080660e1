"""The numbers that matter first: one row for each way of training."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stimulative.report.contents import Run
from stimulative.report.series import Study


@dataclass(frozen=True)
class Headline:
    """The table of a study.

    Args:
        title: What the study is called.
        rows: A row for each series, as texts by column.
    """

    title: str
    rows: list[dict[str, str]]


def headline(study: Study) -> Headline:
    """The table of a study; columns that are empty are left out."""
    rows = [{"trained": name} | _numbers(runs) for name, runs in study.series.items()]
    told = [column for column in rows[0] if any(row[column] for row in rows)]
    return Headline(study.title, [{column: row[column] for column in told} for row in rows])


def _numbers(runs: Sequence[Run]) -> dict[str, str]:
    main = [run.summary["main"]["top1"] for run in runs]
    families = [run.family for run in runs if run.family]
    top1 = [[row["top1"] for row in family] for family in families]
    members = [row for family in families for row in family]
    seconds = [run.summary["train_seconds"] for run in runs if run.summary.get("train_seconds") is not None]
    memory = [run.summary["peak_memory_mib"] for run in runs if run.summary.get("peak_memory_mib") is not None]
    return {
        "seeds": str(len(runs)),
        "main net (%)": _mean(main) + (f" ± {statistics.stdev(main):.2f}" if len(main) > 1 else ""),
        "all subnets (%)": f"{_mean(map(statistics.fmean, top1))} ± {_mean(map(statistics.pstdev, top1))}"
        if top1
        else "",
        "worst (%)": _mean(map(min, top1)),
        "perplexity": _mean(run.summary["main"]["perplexity"] for run in runs if "perplexity" in run.summary["main"]),
        "of all subnets": _mean(row["perplexity"] for row in members if "perplexity" in row),
        "parameters (M)": _range([row["parameters"] / 1e6 for row in members]),
        "FLOPs (M)": _range([row["flops"] / 1e6 for row in members]),
        "latency (ms)": _range([row["latency_ms"] for row in members if row["latency_ms"] is not None]),
        "training (s)": f"{statistics.fmean(seconds):,.0f}" if seconds else "",
        "memory (MiB)": f"{statistics.fmean(memory):,.0f}" if memory else "",
    }


def _mean(values: Any) -> str:
    known = list(values)
    return f"{statistics.fmean(known):.2f}" if known else ""


def _range(values: Sequence[float]) -> str:
    if not values:
        return ""
    low, high = (f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in (min(values), max(values)))
    return low if low == high else f"{low} – {high}"
