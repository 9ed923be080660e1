"""``summary.json``: what a run has come to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

from stimulative.config import CalibrationSetting
from stimulative.data import View
from stimulative.records import Record, RecordError, absent, check_format
from stimulative.runs.score import MainScore
from stimulative.runs.spread import DepthSpread, SizeSpread, Spread
from stimulative.tasks import TaskName

FORMAT = 1
"""The number of the present format; a file without a number is of version 0.1.0, and has neither that nor the task."""

_OF_FAMILY = "space", "seed", "calibration_images"
_OF_EVALUATION = "latency", "frontier", "by_blocks", "by_stage"


@dataclass(frozen=True)
class Origin(Record):
    """Where a network's first weights came from.

    Args:
        file: The file; of published weights, where they are published.
        sha256: The SHA-256 of the file; None for published weights.
        new: The names of the model's parameters that were not in it: a head for other classes. None for weights that
            are measured as they are.
    """

    file: str
    sha256: str | None
    new: tuple[str, ...] | None = absent()


@dataclass(frozen=True)
class Conditions(Record):
    """What latencies belong to.

    Args:
        batch: Images, or sequences, in a batch.
        device: What they were measured on.
        threads: CPU threads that PyTorch computed with.
        rounds: How often each ran.
    """

    batch: int
    device: str
    threads: int
    rounds: int


@dataclass(frozen=True)
class Calibration(Record):
    """Which training images normalisation statistics were estimated on, and what that makes of the main net.

    Args:
        view: How the images were prepared: as for training, augmented, or as for evaluation.
        setting: What was asked for; ``auto`` took the better view.
        images: How many images.
        own: Top-1 accuracy of the main net on the validation part by its own statistics, in percent; None where it has
            none of its own, since subnets have changed them.
        training: The same, recalibrated on images prepared as for training; None where that was not measured.
        evaluation: The same, recalibrated on images prepared as for evaluation.
    """

    view: View
    setting: CalibrationSetting
    images: int
    own: float | None = None
    training: float | None = None
    evaluation: float | None = None

    @property
    def recalibrated(self) -> float | None:
        """What the main net has on the validation part by the view that was taken."""
        return self.training if self.view == "training" else self.evaluation

    @property
    def lost(self) -> float | None:
        """What recalibration costs the main net on the validation part, in points; None where nobody knows."""
        return None if self.own is None or self.recalibrated is None else self.own - self.recalibrated


@dataclass(frozen=True)
class FamilySummary(Record):
    """How the subnets of a run do, together.

    Args:
        count: How many there are.
        evaluated: How many were measured; 0 before that.
        space: Which blocks their stages keep, as ``SubnetSpace`` names it.
        mean: Their mean top-1 accuracy in percent; None before.
        std: Its standard deviation, the population's.
        min: The least.
        max: The greatest.
        perplexity: The spread of their perplexities, of text.
        seed: The seed that they were drawn with; None where all there are were measured.
        calibration_images: Training images that their statistics were estimated on.
    """

    space: str | None = None
    count: int = 0
    evaluated: int = 0
    mean: float | None = None
    std: float | None = None
    min: float | None = None
    max: float | None = None
    perplexity: Spread | None = absent()
    seed: int | None = None
    calibration_images: int | None = None

    def to_mapping(self) -> dict[str, Any]:
        """As it stands in the file: before the subnets are measured, how many there are."""
        mapping = super().to_mapping()
        return mapping if self.evaluated else {key: mapping[key] for key in mapping if key not in _OF_FAMILY}


@dataclass(frozen=True, kw_only=True)
class Summary(Record):
    """What a run has come to.

    Args:
        format: The number of the format.
        task: What the net is for.
        method: How it was trained; None for weights that somebody else has trained.
        model: Its name.
        data: The name of the data set.
        seed: The seed of the run.
        epochs: Passes over the training data; None for weights.
        steps: Optimiser steps; None for weights.
        train_seconds: How long training took, without validation; None for weights.
        peak_memory_mib: The memory that training took at its peak, in MiB; None for weights.
        parameters: The number of parameters.
        main: How good the main net is on the test split.
        subnets: How the subnets do, together.
        device: What was computed on.
        versions: The versions of Python and of the packages that results depend on.
        weights: Where the first weights came from, where they were loaded.
        calibration: Which training images statistics come from; None where the net keeps none, and in files of
            older versions.
        latency: What the latencies of ``subnets.csv`` were measured on; None where they were not.
        frontier: By cost, the subnets that no other one beats, the cheapest first; None before subnets are measured.
        by_blocks: The spread of accuracies by the number of blocks.
        by_stage: The spread of accuracies by the depth of each stage.
        runs_at_once: How many runs shared the machine, for a run of a study.
        files_left_out: By reason, how many files of a folder were not part of the data.
        more: What a later version has written beside all that.
    """

    format: int = FORMAT
    task: TaskName
    method: str | None
    model: str
    data: str
    seed: int
    epochs: int | None = None
    steps: int | None = None
    train_seconds: float | None = None
    peak_memory_mib: float | None = None
    parameters: int | None = None
    main: MainScore
    subnets: FamilySummary
    device: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    weights: Origin | None = absent()
    calibration: Calibration | None = absent()
    latency: Conditions | None = None
    frontier: Mapping[str, tuple[str, ...]] | None = None
    by_blocks: tuple[SizeSpread, ...] | None = None
    by_stage: tuple[DepthSpread, ...] | None = None
    runs_at_once: int | None = absent()
    files_left_out: Mapping[str, int] | None = absent()
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def of_text(self) -> bool:
        """Whether the net is a language model."""
        return self.task == "text"

    def to_mapping(self) -> dict[str, Any]:
        """As it stands in the file: before the subnets are measured, without what is said of them."""
        mapping = super().to_mapping()
        more = mapping.pop("more")
        if not self.subnets.evaluated:
            mapping = {key: value for key, value in mapping.items() if key not in _OF_EVALUATION}
        return mapping | more

    @classmethod
    def from_mapping(cls, mapping: Any) -> Self:
        """Read a summary; one of version 0.1.0 says by a perplexity that it is of text.

        Raises:
            LaterFormat: If it is of a later format.
            RecordError: If it is no summary.
        """
        if not isinstance(mapping, Mapping):
            raise RecordError(f"it holds {mapping!r:.40}, where a mapping is expected")
        check_format(mapping, FORMAT, "summary")
        main = mapping.get("main")
        task = "text" if isinstance(main, Mapping) and "perplexity" in main else "images"
        known = {one.name for one in fields(cls)} - {"more"}
        more = {key: value for key, value in mapping.items() if key not in known}
        return super().from_mapping({"task": task, **{k: v for k, v in mapping.items() if k in known}, "more": more})
