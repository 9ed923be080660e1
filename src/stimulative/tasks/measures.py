"""What nets of a task are compared by: one number each, the greater the better."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

TaskName = Literal["images", "text", "multilabel", "segmentation", "regression", "image_to_image", "embedding", "own"]
"""What the nets of a run are for, as files say it; ``images`` is to classify them, ``text`` to predict next tokens."""


@dataclass(frozen=True)
class Measure:
    """The number that nets of a task are compared by.

    Args:
        key: What it is called in files.
        name: What it is called in sentences.
        short: What it is called in tables.
        unit: What stands behind the number, nothing for pure numbers.
        digits: How many digits behind the point are shown.
        loss: What the loss is called that nets of the task are trained by.
    """

    key: str
    name: str
    short: str
    unit: str = ""
    digits: int = 2
    loss: str = "cross-entropy"

    @property
    def difference(self) -> str:
        """What stands behind a difference: of percents these are points."""
        return " points" if self.unit == "%" else self.unit

    def in_unit(self, what: str) -> str:
        """What a column or an axis holds, with the unit of its numbers."""
        return f"{what} ({self.unit.strip()})" if self.unit else what

    @property
    def axis(self) -> str:
        """The title of an axis, or of a column."""
        return self.in_unit(self.short)

    @property
    def heading(self) -> str:
        """What a table is of, in words."""
        return f"{self.name} in {self.unit.strip()}" if self.unit else self.name

    @property
    def opening(self) -> str:
        """What a table is of, at the beginning of a sentence."""
        return self.heading[:1].upper() + self.heading[1:]

    @property
    def form(self) -> str:
        """How numbers are formatted."""
        return f".{self.digits}f"

    def pair(self, mean: float, std: float) -> str:
        """A mean and a standard deviation without unit."""
        return f"{mean:{self.form}} ± {std:{self.form}}"

    def spread(self, mean: float, std: float) -> str:
        """A mean and a standard deviation with their unit."""
        return f"{self.pair(mean, std)}{self.unit}"

    def shown(self, value: float) -> str:
        """A value with its unit."""
        return f"{value:{self.form}}{self.unit}"


MEASURES: Mapping[TaskName, Measure] = {
    "images": Measure("top1", "top-1 accuracy", "top-1", "%"),
    "text": Measure("top1", "next-token accuracy", "next-token accuracy", "%"),
    "multilabel": Measure("map", "mean average precision", "mAP", "%", loss="binary cross-entropy"),
    "segmentation": Measure("miou", "mean IoU", "mIoU", "%"),
    "regression": Measure("r2", "R²", "R²", digits=4, loss="mean squared error"),
    "image_to_image": Measure("psnr", "PSNR", "PSNR", " dB", loss="mean squared error"),
    "embedding": Measure("cosine", "cosine", "cosine", digits=4, loss="cosine distance"),
    "own": Measure("score", "score", "score", digits=4, loss="loss"),
}

KEYS: tuple[str, ...] = tuple(dict.fromkeys(measure.key for measure in MEASURES.values()))
"""What measures are called in files, each once."""
