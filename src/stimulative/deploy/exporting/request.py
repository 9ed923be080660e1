"""What is asked of an export, and what is wrong with that."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from stimulative.data import ImageData
from stimulative.deploy.deployable import Finished
from stimulative.deploy.exporting import onnx
from stimulative.errors import UsageError

Format = Literal["onnx", "torch", "safetensors"]

SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "torch": ".pt2", "safetensors": ".safetensors"}


@dataclass(frozen=True)
class ExportRequest:
    """What is asked of an export.

    Args:
        format: What kind of file.
        normalise: Whether the exported graph takes pixels from 0 to 1, and normalises them itself.
        temperature: Whether it divides logits by the temperature that fits the validation part.
        probabilities: Whether it gives the softmax of the logits.
    """

    format: Format
    normalise: bool
    temperature: bool
    probabilities: bool

    def check(self, out: str | Path | None) -> None:
        """Refuse what has no meaning together, a file that is named as one of another format, and missing packages.

        Args:
            out: The file, if it is named.

        Raises:
            UsageError: If so.
        """
        if self.format not in get_args(Format):
            raise UsageError(f"format is one of {', '.join(get_args(Format))}, got {self.format!r}")
        graph = [f"{word}=True" for word in ("normalise", "temperature", "probabilities") if getattr(self, word)]
        if self.format == "safetensors" and graph:
            raise UsageError(
                f"{' and '.join(graph)} cannot be part of plain weights; mean, deviation and temperature stand in the "
                "JSON beside them. Leave it out, or choose format='onnx' or 'torch'"
            )
        if self.format == "onnx":
            onnx.check_installed()
        named = {suffix: other for other, suffix in SUFFIXES.items()}.get(Path(out or "").suffix, self.format)
        if named != self.format:
            raise UsageError(
                f"{out} is named as a file of format={named!r}, got format={self.format!r}; change one of them"
            )

    def check_fit(self, finished: Finished) -> None:
        """Refuse what a run has no numbers for.

        Raises:
            UsageError: If it has none.
        """
        data = finished.run.data
        if self.normalise and not (isinstance(data, ImageData) and data.mean):
            raise UsageError(
                f"normalise=True is for images whose mean and deviation are known; this run has {data.described()}. "
                "Leave it out"
            )
        if self.probabilities and not data.aim.has_temperature:
            raise UsageError(f"probabilities=True: outputs for {data.task} are numbers, and no logits; leave it out")
        if self.temperature and data.task not in ("images", "text"):
            raise UsageError(
                f"temperature=True: a temperature is fitted where each sample has one class, not for {data.task}; "
                "leave it out"
            )
        if self.probabilities and finished.calibrates and not self.temperature:
            raise UsageError(
                f"probabilities=True: method {finished.run.recipe.method.name!r} leaves the scale of logits open, so "
                "that their softmax says nothing of certainty; add temperature=True"
            )
