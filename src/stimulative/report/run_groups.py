"""Runs that belong in one picture: of the same model on the same data, and what to call each of them there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from stimulative.report.reported_run import ReportedRun
from stimulative.report.style import Palette
from stimulative.report.words import Words, seeds_in_words, span, words_of
from stimulative.runs import Member

T = TypeVar("T")
K = TypeVar("K")

# where and how fast a run computes, and what is measured afterwards, make no other net of it
_BESIDE = (
    *("seed", "model.name", "data.path", "data.workers", "data.evaluation_batch_size", "evaluation."),
    *(
        f"training.{key}"
        for key in ("device", "devices", "threads", "compile", "channels_last", "loggers", "log_every")
    ),
)


@dataclass(frozen=True)
class MeasuredSubnet:
    """A subnet that was measured in one of several runs.

    Args:
        series: What the run is called.
        seed: Its seed.
        member: The subnet.
    """

    series: str
    seed: int
    member: Member

    @property
    def quality(self) -> float:
        """Its accuracy, in percent."""
        return self.member.score.quality

    @property
    def blocks(self) -> int:
        """How many blocks run."""
        return self.member.subnet.blocks


@dataclass(frozen=True)
class Group:
    """Runs of one model on one data set.

    Args:
        model: The model's name.
        data: The data's name.
        series: The runs that differ in nothing but their seed, by what they are called.
        made_by: What they were trained for, if they were trained together.
    """

    model: str
    data: str
    series: dict[str, list[ReportedRun]]
    made_by: str = ""

    @property
    def title(self) -> str:
        """What it is called."""
        return f"{self.made_by}: {self.model} on {self.data}" if self.made_by else f"{self.model} on {self.data}"

    @property
    def runs(self) -> list[ReportedRun]:
        """All runs."""
        return [run for runs in self.series.values() for run in runs]

    @property
    def palette(self) -> Palette:
        """A colour for each series."""
        return Palette({name: runs[0].summary.method for name, runs in self.series.items()})

    @property
    def subnets(self) -> list[MeasuredSubnet]:
        """Every measured subnet of every run."""
        return [
            MeasuredSubnet(name, run.summary.seed, member)
            for name, runs in self.series.items()
            for run in runs
            for member in run.family
        ]

    @property
    def words(self) -> Words:
        """What its numbers are called."""
        return words_of(self.runs[0].summary.task)

    def measured(self) -> str:
        """What is known about how the subnets were measured, as a caption says it."""
        parts = [run.summary.subnets for run in self.runs if run.family]
        evaluated, count = span(part.evaluated for part in parts), span(part.count for part in parts)
        which = f"all {count}" if evaluated == count else f"{evaluated} of {count}"
        images = [part.calibration_images for part in parts]
        views = {run.summary.calibration.view for run in self.runs if run.family and run.summary.calibration}
        view = f" prepared as for {views.pop()}" if len(views) == 1 else ""
        how = f"statistics of each recalibrated on {span(images)} training images{view}"
        if not any(images):
            how = "which have no statistics to recalibrate"
        accuracy = self.words.opening
        return f"{accuracy} on the test split; {which} subnets, {how}; {self.seeds()}."

    def seeds(self) -> str:
        """The seeds of all runs, as a caption says them."""
        return seeds_in_words({run.summary.seed for run in self.runs})


def groups_of(runs: Sequence[ReportedRun], made_by: str = "", names: Mapping[Path, str] | None = None) -> list[Group]:
    """Sort runs into groups, in the order in which they come.

    Args:
        runs: The runs.
        made_by: What they were trained for.
        names: What runs are called, by directory; those with the same name differ in their seed alone. The others are
            called by their method and what sets them apart from others of it.
    """
    by_subject: dict[tuple[str, str], list[ReportedRun]] = defaultdict(list)
    for run in {run.directory.resolve(): run for run in runs}.values():
        by_subject[run.summary.model, run.summary.data].append(run)
    return [Group(model, data, _series(of, names or {}), made_by) for (model, data), of in by_subject.items()]


def grouped(items: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """Items by key, in the order in which keys come."""
    groups: dict[K, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def _series(runs: Sequence[ReportedRun], names: Mapping[Path, str]) -> dict[str, list[ReportedRun]]:
    """Runs by what they are called, or else by what sets them apart from the others of their method."""
    settings = {run.directory: run.settings for run in runs}
    series: dict[str, list[ReportedRun]] = {
        name: [] for directory, name in names.items() if any(run.directory == directory for run in runs)
    }
    for run in runs:
        if run.directory in names:
            series[names[run.directory]].append(run)
            continue
        method = run.summary.method
        if method is None:  # weights that somebody else has trained are not another seed of anything
            name = run.directory.resolve().name
            series.setdefault(name if name not in series else str(run.directory), []).append(run)
            continue
        own = settings[run.directory]
        others = [settings[other.directory] for other in runs if other.summary.method == method]
        differing = [key for key in own if any(other.get(key) != own[key] for other in others)]
        shown = [f"{key.rpartition('.')[2]} {own[key]}" for key in differing if not key.startswith(_BESIDE)]
        series.setdefault(", ".join([method, *shown]), []).append(run)
    return series
