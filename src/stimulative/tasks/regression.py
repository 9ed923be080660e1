"""Numbers, and images of images: regression, super-resolution, denoising, the noise of a diffusion model."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from stimulative.errors import UsageError
from stimulative.objectives import squared_distance
from stimulative.tasks.meters import ImageMeter, Meter, NumberMeter
from stimulative.tasks.task import Task, shape_of

_WHAT = "regression takes outputs of any shape with floating point targets of the same shape"


class Regression(Task):
    """Numbers of any shape: the mean squared difference, from the targets and from the main net."""

    measure = "r2"
    name = "regression"
    fields = ("logits", "reconstruction", "predicted_depth", "sample", "out")

    def check_outputs(self, outputs: Any) -> None:
        """Any floating point tensor with a dimension of samples."""
        if not isinstance(outputs, Tensor) or not outputs.is_floating_point() or not outputs.dim():
            raise UsageError(f"{_WHAT}; the model gives {shape_of(outputs)}")

    def check(self, outputs: Any, targets: Any, *, values: bool) -> None:
        """Numbers in the shape of the outputs; see ``Task.check``."""
        self.check_outputs(outputs)
        if not isinstance(targets, Tensor) or not targets.is_floating_point():
            hint = (
                ". Give numbers as y.float(), classes with task='classification'" if isinstance(targets, Tensor) else ""
            )
            raise UsageError(f"{_WHAT}; got outputs {shape_of(outputs)} and targets {shape_of(targets)}{hint}")
        if _in_shape(outputs, targets).shape != outputs.shape:
            raise UsageError(f"{_WHAT}; got outputs {shape_of(outputs)} and targets {shape_of(targets)}")

    def loss(self, outputs: Any, targets: Any, *, label_smoothing: float = 0.0) -> Tensor:
        """The mean squared difference from the targets; see ``Task.loss``."""
        return squared_distance(outputs, _in_shape(outputs, targets))

    def meter(self, *, temperature: float = 1.0) -> Meter:
        """The share of the variance that is explained."""
        return NumberMeter()

    def divergence(self, student: Any, teacher: Any, targets: Any = None, *, temperature: float = 1.0) -> Tensor:
        """The mean squared difference from the main net; see ``Task.divergence``."""
        return squared_distance(student, teacher)


class ImageToImage(Regression):
    """Images of images, values from 0 to 1: super-resolution, denoising; as ``Regression``, but scored in dB."""

    measure = "psnr"
    name = "image_to_image"

    def meter(self, *, temperature: float = 1.0) -> Meter:
        """The peak signal-to-noise ratio."""
        return ImageMeter()


def _in_shape(outputs: Tensor, targets: Tensor) -> Tensor:
    """One number a sample may lack the dimension of one."""
    return targets.view_as(outputs) if outputs.shape == (*targets.shape, 1) else targets
