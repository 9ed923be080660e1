"""What things are called: accuracies of images and of the tokens of texts, and what captions say of runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from stimulative.studies import Failed
from stimulative.tasks import MEASURES, Measure, TaskName


@dataclass(frozen=True)
class Words:
    """The names of one kind of data.

    Args:
        measure: What nets are compared by; accuracy, where nothing else is said.
        samples: What is counted.
        recalibrated: What a caption says of the statistics of subnets; language models and encoders have none.
    """

    measure: Measure
    samples: str
    recalibrated: str

    @property
    def accuracy(self) -> str:
        """What accuracy is called."""
        return self.measure.name

    @property
    def axis(self) -> str:
        """The title of its axis."""
        return self.measure.axis

    @property
    def key(self) -> str:
        """What accuracy is called in files."""
        return self.measure.key

    @property
    def opening(self) -> str:
        """What accuracy is called at the beginning of a sentence."""
        return self.accuracy[:1].upper() + self.accuracy[1:]

    @property
    def quality(self) -> str:
        """What accuracy is called in short, in the middle of a sentence."""
        return "accuracy" if self.measure.key == "top1" else self.measure.short

    @property
    def title(self) -> str:
        """The same at the beginning of a title."""
        return self.quality.capitalize() if self.quality.islower() else self.quality

    @property
    def difference(self) -> str:
        """What differences of it are, with their unit."""
        unit = self.measure.difference.strip()
        return f"difference ({unit})" if unit else "difference"

    def number(self, what: str) -> str:
        """What a tooltip calls a number of the measure, and how it shows it."""
        return f"{self.measure.in_unit(what)}:{self.measure.form}"


class Trained(Protocol):
    """A run or a study, as far as it says what was trained on what."""

    @property
    def model(self) -> str | None:
        """The model."""
        ...

    @property
    def data(self) -> str | None:
        """The data set."""
        ...


class Calibrated(Protocol):
    """A study that says what the statistics of subnets were estimated on."""

    @property
    def task(self) -> TaskName:
        """What its nets are for."""
        ...

    @property
    def calibration_images(self) -> int | None:
        """How many images: 0 without statistics, None if nobody knows."""
        ...

    @property
    def statistics(self) -> str | None:
        """What they were, in words."""
        ...


def statistics_in_words(study: Calibrated, of: str) -> str:
    """What a caption says of the statistics of subnets; files of older versions do not say what they were from."""
    if study.calibration_images == 0:
        return ""
    where = f" on {study.statistics}" if study.statistics else ""
    return f"{words_of(study.task).recalibrated.format(of=of)}{where}"


_WITHOUT_STATISTICS = {"text": "sequences", "embedding": "samples"}


def words_of(task: TaskName) -> Words:
    """What the numbers of a run or a study are called."""
    samples, recalibrated = _WITHOUT_STATISTICS.get(task), ""
    if samples is None:
        samples, recalibrated = "images", ", statistics of {of} recalibrated"
    return Words(MEASURES[task], samples, recalibrated)


def subject_of(trained: Iterable[Trained]) -> str:
    """The models and their data, each once."""
    return " and ".join(dict.fromkeys(f"{one.model} on {one.data}" for one in trained))


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


def failures_in_words(failed: Sequence[Failed]) -> str:
    """What a caption says of runs that have failed."""
    return f" Left out: {len(failed)} that failed." if failed else ""
