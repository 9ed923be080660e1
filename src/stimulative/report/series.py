"""Runs that belong in one picture: of the same model on the same data, and what to call each of them there."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stimulative.report.contents import Run
from stimulative.report.style import Palette
from stimulative.report.words import Words, words_of

# where and how fast a run computes, and what is measured afterwards, make no other net of it
_BESIDE = (
    *("seed", "model.name", "data.path", "data.workers", "data.evaluation_batch_size", "evaluation."),
    *(
        f"training.{key}"
        for key in ("device", "devices", "threads", "compile", "channels_last", "loggers", "log_every")
    ),
)


@dataclass(frozen=True)
class Study:
    """Runs of one model on one data set.

    Args:
        model: The model's name.
        data: The data's name.
        series: The runs that differ in nothing but their seed, by what they are called.
        made_by: What they were trained for, if they were trained together.
    """

    model: str
    data: str
    series: dict[str, list[Run]]
    made_by: str = ""

    @property
    def title(self) -> str:
        """What it is called."""
        return f"{self.made_by}: {self.model} on {self.data}" if self.made_by else f"{self.model} on {self.data}"

    @property
    def runs(self) -> list[Run]:
        """All runs."""
        return [run for runs in self.series.values() for run in runs]

    @property
    def palette(self) -> Palette:
        """A colour for each series."""
        return Palette({name: runs[0].summary["method"] for name, runs in self.series.items()})

    @property
    def family(self) -> list[dict[str, Any]]:
        """Every measured subnet of every run, with the names of its series and its seed."""
        return [
            {"series": name, "seed": run.summary["seed"], **row}
            for name, runs in self.series.items()
            for run in runs
            for row in run.family
        ]

    @property
    def words(self) -> Words:
        """What its numbers are called."""
        return words_of(run.summary["main"] for run in self.runs)

    def measured(self) -> str:
        """What is known about how the subnets were measured, as a caption says it."""
        parts = [run.summary.get("subnets") or {} for run in self.runs if run.family]
        evaluated, count = span(part.get("evaluated") for part in parts), span(part.get("count") for part in parts)
        which = f"all {count}" if evaluated == count else f"{evaluated} of {count}"
        images = [part.get("calibration_images") for part in parts]
        how = f"statistics of each recalibrated on {span(images)} training images"
        if not any(images):
            how = "which have no statistics to recalibrate"
        accuracy = self.words.accuracy.capitalize()
        return f"{accuracy} on the test split; {which} subnets, {how}; {self.seeds()}."

    def seeds(self) -> str:
        """The seeds of all runs, as a caption says them."""
        return seeds_in_words({run.summary["seed"] for run in self.runs})


def studies_of(runs: Sequence[Run], made_by: str = "", names: Mapping[Path, str] | None = None) -> list[Study]:
    """Sort runs into studies, in the order in which they come.

    Args:
        runs: The runs.
        made_by: What they were trained for.
        names: What runs are called, by directory; those with the same name differ in their seed alone. The others are
            called by their method and what sets them apart from others of it.
    """
    by_task: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in {run.directory.resolve(): run for run in runs}.values():
        by_task[str(run.summary["model"]), str(run.summary["data"])].append(run)
    return [Study(model, data, _series(of_task, names or {}), made_by) for (model, data), of_task in by_task.items()]


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """The mean and the population's standard deviation."""
    return statistics.fmean(values), statistics.pstdev(values)


def seeds_in_words(seeds: Iterable[int]) -> str:
    """Seeds as a caption says them."""
    known = sorted(seeds)
    return f"{'seed' if len(known) == 1 else 'seeds'} {', '.join(map(str, known))}"


def span(values: Iterable[int | None]) -> str:
    """The least and the greatest of some numbers in words, those that are known."""
    known = sorted({value for value in values if value is not None})
    if not known:
        return "an unknown number of"
    return " to ".join(f"{value:,}" for value in dict.fromkeys([known[0], known[-1]]))


def failures(study: dict[str, Any]) -> str:
    """What a caption says of runs that have failed."""
    failed = len(study.get("failed") or [])
    return f" Left out: {failed} that failed." if failed else ""


def grouped(rows: Iterable[dict[str, Any]], key: Callable[[dict[str, Any]], Any]) -> dict[Any, list[dict[str, Any]]]:
    """Rows by key, in the order in which keys come."""
    groups: dict[Any, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def _series(runs: Sequence[Run], names: Mapping[Path, str]) -> dict[str, list[Run]]:
    """Runs by what they are called, or else by what sets them apart from the others of their method."""
    settings = {run.directory: run.settings for run in runs}
    series: dict[str, list[Run]] = {
        name: [] for directory, name in names.items() if any(run.directory == directory for run in runs)
    }
    for run in runs:
        if run.directory in names:
            series[names[run.directory]].append(run)
            continue
        method = run.summary["method"]
        if method is None:  # weights that somebody else has trained are not another seed of anything
            name = run.directory.resolve().name
            series.setdefault(name if name not in series else str(run.directory), []).append(run)
            continue
        own = settings[run.directory]
        others = [settings[other.directory] for other in runs if other.summary["method"] == method]
        differing = [key for key in own if any(other.get(key) != own[key] for other in others)]
        shown = [f"{key.rpartition('.')[2]} {own[key]}" for key in differing if not key.startswith(_BESIDE)]
        series.setdefault(", ".join([method, *shown]), []).append(run)
    return series
