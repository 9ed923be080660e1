"""Temperatures that bring the logits of a trained network, and of its subnets, to the scale of probabilities.

Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, arXiv 1706.04599: of all positive numbers, the
temperature ``T`` is the one that minimises the mean cross-entropy of ``z / T`` on held-out images. It changes no
prediction, and a model is exported with it by one division of its last layer's weight and bias.

What is fitted are always the raw logits ``z``, also of a network that was trained on normalised ones: what is deployed
is then the plain model, and a fitted ``T`` makes up for the scale that training did not see. Normalising in deployment
as well would give each image the same certainty, up to the direction of its logits.

Cross-entropy is convex in ``1 / T``. It is summed at 66 values of ``1 / T``, 15 % apart, in one pass over the images,
and the minimum of the cubic spline through these is taken. Against a minimiser without a grid ``T`` comes out within
0.02 % (40 made-up sets of logits, 2 to 200 classes; a parabola through the best three is off by up to 1 %).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stimulative.data import Batch
from stimulative.errors import UsageError
from stimulative.objectives import IGNORED
from stimulative.ranks import divided, division
from stimulative.residual import ResidualNetwork, Statistics, Subnet
from stimulative.runs import Score
from stimulative.training.measuring import measure

_OCTAVE, _OCTAVES = 5, 13
_POINTS = _OCTAVE * _OCTAVES + 1
_LEAST = 0.01
"""The least standard deviation of a sample's scaled logits over the classes that is looked at; the greatest is 82."""


_SUMMED = "samples", "normalisers", "behind", "ahead"
"""What a curve adds up."""


class LossCurve:
    """Mean cross-entropy of logits as a function of the temperature, from one look at each batch."""

    def __init__(self) -> None:
        self.samples: Tensor | int = 0
        self.scale = torch.zeros(())
        self.inverse = torch.zeros(())
        self.normalisers = torch.zeros(())
        self.behind = torch.zeros(())
        self.ahead = torch.zeros(())

    def add(self, logits: Tensor, targets: Tensor) -> None:
        """Count a batch in.

        Args:
            logits: Shape ``(B, classes)``, or ``(B, positions, classes)`` of text.
            targets: Class indices in their shape without the classes, -100 where none counts.
        """
        if not targets.numel():
            return
        z = logits.detach().flatten(0, -2).to(torch.float32 if logits.device.type == "mps" else torch.float64)
        targets = targets.flatten()
        counts = targets != IGNORED  # all rows stay, since the shape of those that count would have to be waited for

        def total(values: Tensor) -> Tensor:
            return torch.where(counts, values, 0).sum()

        samples = counts.sum()
        if not self.inverse.dim():
            deviations = z.std(-1, correction=0)
            # a batch in which nothing counts has one, too
            self.scale = torch.where(samples > 0, total(deviations) / samples.clamp(min=1), deviations.mean())
            steps = torch.arange(_POINTS, device=z.device, dtype=z.dtype) / _OCTAVE
            self.inverse = _LEAST * steps.exp2() / self.scale
            self.normalisers = z.new_zeros(_POINTS)
            self.behind, self.ahead = z.new_zeros(()), z.new_zeros(())
        greatest = z.amax(-1, keepdim=True)
        right = z.gather(-1, torch.where(counts, targets, 0)[:, None])
        for first in range(_OCTAVE):
            powers = (self.inverse[first] * (z - greatest)).exp()
            for point in range(first, _POINTS, _OCTAVE):
                self.normalisers[point] += total(powers.sum(-1).log())
                powers.square_()  # twice the inverse temperature, without another exponential
        self.behind += total((greatest - right)[:, 0])
        self.ahead += total(right[:, 0] - z.mean(-1))
        self.samples = self.samples + samples

    def of_batch(self, logits: Tensor, targets: Tensor) -> dict[str, Any]:
        """What a batch alone would be counted in as, at the temperatures of this curve, on the CPU."""
        alone = copy.copy(self)
        alone.begin_again()
        alone.add(logits, targets)
        return {name: torch.as_tensor(getattr(alone, name)).cpu() for name in _SUMMED}

    def begin_again(self) -> None:
        """Forget all but the temperatures."""
        for name in _SUMMED:
            setattr(self, name, torch.zeros_like(torch.as_tensor(getattr(self, name))))

    def put_together(self, batch: Mapping[str, Any]) -> None:
        """Count a batch in of which ``of_batch`` has told."""
        for name in _SUMMED:
            value = getattr(self, name)
            setattr(self, name, value + batch[name].to(value.device))

    def temperature(self) -> float:
        """The temperature of the least mean cross-entropy.

        Where every sample is classified right, ever smaller temperatures are ever better. Targets are then smoothed by
        one in two more than there are samples (as in Platt, "Probabilistic Outputs for Support Vector Machines", 1999),
        which has a minimum. Logits that say nothing get the greatest temperature that is looked at, a hundred times
        their standard deviation; those that are all equal or not finite, or of which there are none, get 1.
        """
        from scipy.interpolate import CubicSpline

        samples = int(self.samples)
        if not samples:
            return 1.0
        losses = ((self.normalisers + self.inverse * self.behind) / samples).double().cpu().numpy()
        if not (float(self.scale) > 0 and np.isfinite(losses).all()):
            return 1.0
        inverse = self.inverse.double().cpu().numpy()
        if losses[-1] <= losses.min():
            losses = losses + inverse * float(self.ahead) / samples / (samples + 2)
        best = int(losses.argmin())
        if best in (0, _POINTS - 1):
            return float(1 / inverse[best])
        spline = CubicSpline(np.log(inverse), losses)
        near = np.log(inverse[[best - 1, best, best + 1]])
        roots = [root for root in spline.derivative().roots(extrapolate=False) if near[0] <= root <= near[2]]
        return float(np.exp(-min([*roots, near[1]], key=spline)))


def fit_temperatures(
    network: ResidualNetwork,
    batches: Iterable[Any],
    subnets: Sequence[Subnet] | None = None,
    *,
    statistics: Statistics | None = None,
    after_batch: Callable[[], Any] | None = None,
) -> list[float]:
    """Fit a temperature to the logits of each subnet, in evaluation mode.

    Args:
        network: The network; its mode comes back as it was.
        batches: What the model takes, followed by class indices, of samples that were not trained on, and that nothing
            is reported on: the validation part.
        subnets: Which subnets; by default the main net alone.
        statistics: Statistics to normalise with, instead of the network's own.
        after_batch: Called after each batch, to show progress.

    Returns:
        A temperature for each subnet, in their order.

    Raises:
        UsageError: If there is no batch.
    """
    return measure_and_fit(network, batches, subnets, statistics=statistics, after_batch=after_batch)[1]


def measure_and_fit(
    network: ResidualNetwork,
    batches: Iterable[Batch],
    subnets: Sequence[Subnet] | None = None,
    *,
    statistics: Statistics | None = None,
    after_batch: Callable[[], Any] | None = None,
) -> tuple[list[Score], list[float]]:
    """The score of each subnet and the temperature that fits its logits, from one look at each batch.

    Args:
        network: The network; its mode comes back as it was.
        batches: As for ``fit_temperatures``.
        subnets: Which subnets; by default the main net alone.
        statistics: Statistics to normalise with, instead of the network's own.
        after_batch: Called after each batch, to show progress.

    Returns:
        The scores, their losses of the logits as they are, and the temperatures.

    Raises:
        UsageError: If there is no batch.
    """
    chosen = [network.full] if subnets is None else list(subnets)
    curves = [LossCurve() for _ in chosen]
    shares = division()
    if shares is not None:
        # all have to look at the same temperatures, which the first batch decides
        with divided(None), suppress(UsageError):
            measure(network, islice(iter(batches), 1), chosen, statistics=statistics, each=_adding(curves))
        if not all(curve.inverse.dim() for curve in curves):  # nothing counts in it
            with divided(None):
                return measure_and_fit(network, batches, chosen, statistics=statistics, after_batch=after_batch)
    own: list[list[dict[str, Any]]] = [[] for _ in chosen]
    scores = measure(
        network,
        batches,
        chosen,
        statistics=statistics,
        each=_adding(curves)
        if shares is None
        else lambda position, logits, y: own[position].append(curves[position].of_batch(logits, y)),
        after_batch=after_batch,
    )
    if shares is not None:
        for curve in curves:
            curve.begin_again()
        for of_batch in shares.in_order(list(zip(*own, strict=True))):
            for curve, sums in zip(curves, of_batch, strict=True):
                curve.put_together(sums)
    return scores, [curve.temperature() for curve in curves]


def _adding(curves: Sequence[LossCurve]) -> Callable[[int, Any, Any], None]:
    return lambda position, logits, y: curves[position].add(logits, y)
