"""What every study is: a file of typed results, and rows that several of them have."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from stimulative import files
from stimulative.data import View
from stimulative.records import Record, absent, check_format, understanding
from stimulative.runs import Summary, check_read, write_summed
from stimulative.tasks import TaskName

FORMAT = 1
"""The number of the present format of the files of studies; files of version 0.1.0 have none."""


@dataclass(frozen=True)
class Failed(Record):
    """A run that failed.

    Args:
        run: Its name.
        error: Its error, in a line.
    """

    run: str
    error: str


@dataclass(frozen=True, kw_only=True)
class Study(Record):
    """The results of a study, as they stand in its file.

    Args:
        format: The number of the format.
        task: What the nets are for.
    """

    NAME: ClassVar[str]
    """What the study is called; its file is ``NAME.json``."""

    format: int = FORMAT
    task: TaskName

    @property
    def of_text(self) -> bool:
        """Whether the nets are language models."""
        return self.task == "text"

    @classmethod
    def file(cls, directory: Path) -> Path:
        """The file of the study of a directory."""
        return directory / f"{cls.NAME}.json"

    @classmethod
    def read(cls, directory: Path) -> Self:
        """Read the file of a study.

        Raises:
            UsageError: If it is missing, damaged, or of a later version.
        """
        path = cls.file(directory)
        content = files.read_json(path)
        with understanding(path):
            study = cls.from_mapping(content)
        check_read(path, "make it anew")
        return study

    @classmethod
    def from_mapping(cls, mapping: Any) -> Self:
        """Read results; those of version 0.1.0 say by their perplexities that they are of text."""
        if isinstance(mapping, Mapping):
            check_format(mapping, FORMAT, cls.NAME)
            mapping = {"task": "text" if _tells_perplexity(mapping) else "images", **mapping}
        return super().from_mapping(mapping)

    def write(self, directory: Path) -> None:
        """Write the file, whole or not at all."""
        write_summed(self.file(directory), files.json_text(self.to_mapping()))


@dataclass(frozen=True, kw_only=True)
class _Calibrated(Study):
    """A study of subnets whose statistics were estimated.

    Args:
        calibration: How the training images were prepared that statistics of subnets were estimated on; None without
            statistics, or if runs that were measured again differ.
        calibration_images: How many images; 0 without statistics, None in files of older versions.
    """

    calibration: View | None = absent()
    calibration_images: int | None = absent()

    @property
    def statistics(self) -> str | None:
        """What the statistics of subnets were estimated on, in words; None where there are none, or nobody knows."""
        if not self.calibration_images:
            return None
        how = f"prepared as for {self.calibration}" if self.calibration else "not prepared the same way in all runs"
        return f"{self.calibration_images:,} training images {how}"


class StudyOfRuns(_Calibrated):
    """A study that trains the runs that it needs; some may fail."""

    failed: tuple[Failed, ...]
    """The runs that failed; each study has this among its fields."""

    @property
    def empty(self) -> bool:
        """Whether there is nothing to show, since too few runs have finished."""
        raise NotImplementedError


@dataclass(frozen=True)
class OverSeeds(Record):
    """Main nets and families of runs that differ in their seed alone: means and spreads, in percent.

    Args:
        seeds: How many runs.
        main_mean: Mean top-1 accuracy of the main nets.
        main_std: Its sample standard deviation; 0 for one seed.
        all_mean: Mean over seeds of the mean over subnets.
        all_std: Mean over seeds of the standard deviation over subnets.
        all_mean_spread: Sample standard deviation over seeds of the mean over subnets.
        all_min: Mean over seeds of the worst subnet.
        main_perplexity: Of text, the mean perplexity of the main nets.
        main_perplexity_std: Its sample standard deviation.
        all_perplexity: Mean over seeds of the mean over subnets.
        all_perplexity_std: Mean over seeds of the standard deviation over subnets.
        all_perplexity_max: Mean over seeds of the worst subnet.
    """

    seeds: int
    main_mean: float
    main_std: float
    all_mean: float
    all_std: float
    all_mean_spread: float | None = None
    all_min: float | None = None
    main_perplexity: float | None = absent()
    main_perplexity_std: float | None = absent()
    all_perplexity: float | None = absent()
    all_perplexity_std: float | None = absent()
    all_perplexity_max: float | None = absent()


def over_seeds(summaries: Sequence[Summary]) -> OverSeeds:
    """Main nets and families of evaluated runs that differ in their seed alone."""
    main = [summary.main.quality for summary in summaries]
    families = [summary.subnets for summary in summaries]
    means = [family.mean or 0.0 for family in families]
    perplexities = [(summary.main.perplexity, summary.subnets.perplexity) for summary in summaries]
    known = [(one, several) for one, several in perplexities if one is not None and several is not None]
    of_text: dict[str, float] = {}
    if len(known) == len(summaries):
        of_text = {
            "main_perplexity": statistics.fmean(one for one, _ in known),
            "main_perplexity_std": spread([one for one, _ in known]),
            "all_perplexity": statistics.fmean(several.mean for _, several in known),
            "all_perplexity_std": statistics.fmean(several.std for _, several in known),
            "all_perplexity_max": statistics.fmean(several.max for _, several in known),
        }
    return OverSeeds(
        seeds=len(summaries),
        main_mean=statistics.fmean(main),
        main_std=spread(main),
        all_mean=statistics.fmean(means),
        all_std=statistics.fmean(family.std or 0.0 for family in families),
        all_mean_spread=spread(means),
        all_min=statistics.fmean(family.min or 0.0 for family in families),
        **of_text,
    )


def spread(values: Sequence[float]) -> float:
    """The sample standard deviation over seeds; 0 for one seed."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def _tells_perplexity(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any("perplexity" in str(key) or _tells_perplexity(inner) for key, inner in value.items())
    return isinstance(value, list) and any(map(_tells_perplexity, value))
