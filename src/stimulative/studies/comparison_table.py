"""The table of a comparison in words: the same cells and sentences in the terminal, as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from stimulative.tasks import MEASURES

if TYPE_CHECKING:
    from stimulative.studies.comparison import ComparedMethods, Comparison, ComparisonRow

HEADINGS = ("method", "seeds", "time", "memory", "main net", "all subnets", "worst")
"""The columns, in the order of the paper's Table 1; all but the first are numbers."""
OF_TEXT = ("main perplexity", "all perplexity", "worst perplexity")
"""Further columns for text."""
COMPARED = {"main": "main net", "all": "all subnets"}

_ROW = ("train_seconds", "time_ratio", "peak_memory_mib", "memory_ratio")
_ACCURACIES = ("main_mean", "main_std", "all_mean", "all_std", "all_mean_spread", "all_min")
_PERPLEXITIES = (
    *("main_perplexity", "main_perplexity_std"),
    *("all_perplexity", "all_perplexity_std", "all_perplexity_max"),
)
_DIFFERENCE = ("n", "mean", "std", "low", "high")


def accuracy(comparison: Comparison) -> str:
    """What accuracy is called."""
    return MEASURES[comparison.task].name


def headings(comparison: Comparison) -> tuple[str, ...]:
    """The columns of the table."""
    return HEADINGS + (OF_TEXT if comparison.of_text else ())


def cells(row: ComparisonRow, comparison: Comparison) -> list[str]:
    """The row of a method as texts."""
    seeds, measure = len(comparison.seeds), MEASURES[comparison.task]
    return [
        row.method,
        str(seeds) if row.n == seeds else f"{row.n} of {seeds}",
        f"{row.train_seconds or 0:.0f} s" if row.time_ratio is None else f"{row.time_ratio:.2f}×",
        f"{row.peak_memory_mib or 0:.0f} MiB" if row.memory_ratio is None else f"{row.memory_ratio:.2f}×",
        measure.pair(row.main_mean, row.main_std) if row.n > 1 else f"{row.main_mean:{measure.form}}",
        measure.pair(row.all_mean, row.all_std),
        _number(row.all_min, measure.digits),
        *(_perplexities(row) if comparison.of_text else ()),
    ]


def _perplexities(row: ComparisonRow) -> list[str]:
    spread = f" ± {_number(row.main_perplexity_std)}" if row.seeds > 1 else ""
    return [
        f"{_number(row.main_perplexity)}{spread}",
        f"{_number(row.all_perplexity)} ± {_number(row.all_perplexity_std)}",
        _number(row.all_perplexity_max),
    ]


def notes(comparison: Comparison) -> list[str]:
    """What is to be said below the table."""
    rows = {row.method: row for row in comparison.rows}
    said = [
        f"{MEASURES[comparison.task].opening}, means over seeds. Main net: ± standard deviation over "
        "seeds. All subnets: ± that over subnets, mean over seeds. Worst: of all subnets, mean over seeds."
        + (" Perplexity: exp of the mean cross-entropy of a token; lower is better." if comparison.of_text else "")
    ]
    if comparison.statistics is not None:
        said.append(f"Statistics of each subnet: from {comparison.statistics}.")
    of = rows.get("common")
    if of is not None and of.time_ratio is not None:
        said.append(
            f"Time of training and peak memory: times those of common "
            f"({of.train_seconds or 0:.1f} s, {of.peak_memory_mib or 0:.0f} MiB)."
        )
    shared = [f"{row.method} ({row.runs_at_once})" for row in comparison.rows if row.runs_at_once > 1]
    if shared:
        said.append(
            f"Without a ratio of times, since several runs shared the machine, which says little about the methods: "
            f"{', '.join(shared)}."
        )
    if comparison.left_out:
        said.append(
            f"In the directory, but not asked for this time: {', '.join(comparison.left_out)}. Name their methods "
            "and seeds again to have them in the table; nothing is trained anew."
        )
    missing = [method for method in comparison.methods if method not in rows]
    if missing:
        said.append(f"Without a row, since none of their runs has finished: {', '.join(missing)}.")
    return said


def sentences(comparison: Comparison) -> list[tuple[str, str, str]]:
    """What each method has more than the reference: the method, what was measured, and a sentence."""
    return [(one.method, COMPARED[one.measure], one.sentence) for one in _from_reference(comparison)]


def caution(comparison: Comparison) -> str:
    """How to read several intervals at once; empty where there is at most one."""
    known = sum(one.low is not None for one in _from_reference(comparison))
    if known < 2:
        return ""
    return (
        f"Each of the {known} intervals stands alone: of differences that are 0 in truth, one in twenty is called "
        "distinguishable by chance."
    )


def markdown(comparison: Comparison) -> str:
    """The table and the differences from the reference as Markdown."""
    rows = [[_code(row.method), *cells(row, comparison)[1:]] for row in comparison.rows]
    parts = [
        f"# {comparison.model} on {comparison.data}",
        f"{_count(comparison.epochs or 0, 'epoch')}, {'seed' if len(comparison.seeds) == 1 else 'seeds'} "
        f"{', '.join(map(str, comparison.seeds))}.",
        _table(headings(comparison), rows),
        *notes(comparison),
    ]
    told = sentences(comparison)
    if told:
        lines = [f"- {_code(method)}, {measure}: {sentence}." for method, measure, sentence in told]
        parts += [f"## Differences from {_code(str(comparison.reference))}, seed by seed", "\n".join(lines)]
        parts += [text for text in [caution(comparison)] if text]
    if comparison.failed:
        lines = [f"- {_code(failure.run)}: {' '.join(failure.error.split())}" for failure in comparison.failed]
        parts += ["## Runs that failed", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def csv_text(comparison: Comparison) -> str:
    """A row a method, with its differences from the reference, as the text of a CSV file."""
    of = {(one.method, one.measure): one for one in _from_reference(comparison)}
    numbers = _ACCURACIES + (_PERPLEXITIES if comparison.of_text else ())
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["method", "n", "seeds", *_ROW, *numbers, "reference"]
        + [f"{measure}_difference_{key}" for measure in COMPARED for key in _DIFFERENCE]
    )
    for row in comparison.rows:
        ones = [of.get((row.method, measure)) for measure in COMPARED]
        writer.writerow(
            [row.method, row.n, " ".join(map(str, row.seeds_used)), *(getattr(row, key) for key in _ROW + numbers)]
            + [comparison.reference if any(ones) else None]
            + [None if one is None else getattr(one, key) for one in ones for key in _DIFFERENCE]
        )
    return text.getvalue()


def _from_reference(comparison: Comparison) -> list[ComparedMethods]:
    return [one for one in comparison.differences if one.reference == comparison.reference]


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _code(text: str) -> str:
    """A method as code; a bar would end the cell of a table."""
    return f"`{text}`".replace("|", "\\|")


def _count(number: int, name: str) -> str:
    return f"{number} {name}" if number == 1 else f"{number} {name}s"


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
