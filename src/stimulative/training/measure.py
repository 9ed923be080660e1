"""Accuracy and loss of a network and of its subnets on a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stimulative.errors import UsageError
from stimulative.unravel import ResidualNetwork, Statistics, Subnet, evaluating


@dataclass(frozen=True)
class Score:
    """How good a net is on a data set.

    Args:
        top1: Share of images whose most likely class is the right one, in percent.
        loss: Mean cross-entropy, in nats; where a temperature was fitted, that of the logits divided by it.
    """

    top1: float
    loss: float


def in_precision_of(
    network: ResidualNetwork, batches: Iterable[tuple[Tensor, Tensor]]
) -> Iterator[tuple[Tensor, Tensor]]:
    """The same batches, with images in the number format of the network's weights."""
    dtype = next(network.parameters()).dtype
    return ((x.to(dtype), y) for x, y in batches)


def measure(
    network: ResidualNetwork,
    batches: Iterable[tuple[Tensor, Tensor]],
    subnets: Sequence[Subnet] | None = None,
    *,
    statistics: Statistics | None = None,
    temperatures: Sequence[float] | None = None,
    after_batch: Callable[[], Any] | None = None,
) -> list[Score]:
    """Measure subnets of a network in evaluation mode, sharing what they have in common.

    Args:
        network: The network; its mode comes back as it was.
        batches: Pairs of images and class indices.
        subnets: Which subnets; by default the main net alone.
        statistics: Statistics to normalise with, instead of the network's own.
        temperatures: What to divide each subnet's logits by, one number a subnet; 1 by default. It changes the loss
            alone.
        after_batch: Called after each batch, to show progress.

    Returns:
        A score for each subnet, in their order.

    Raises:
        UsageError: If there is no batch, or not a temperature for each subnet.
    """
    chosen = [network.full] if subnets is None else list(subnets)
    if temperatures is not None and len(temperatures) != len(chosen):
        raise UsageError(f"{len(chosen)} subnets need as many temperatures, got {len(temperatures)}")
    correct: Tensor | None = None
    loss: Tensor | None = None
    images = 0
    with evaluating(network), torch.no_grad():
        for x, y in in_precision_of(network, batches):
            if correct is None or loss is None:
                correct = torch.zeros(len(chosen), device=y.device, dtype=torch.int64)
                double = None if y.device.type == "mps" else torch.float64
                loss = torch.zeros(len(chosen), device=y.device, dtype=double)
            for position, logits, _ in network.passes(x, chosen, statistics=statistics):
                correct[position] += (logits.argmax(-1) == y).sum()
                scaled = logits.float() if temperatures is None else logits.float() / temperatures[position]
                loss[position] += F.cross_entropy(scaled, y, reduction="sum")
            images += len(y)
            if after_batch is not None:
                after_batch()
    if correct is None or loss is None:
        raise UsageError("there is nothing to measure on: the data set has no batch")
    return [
        Score(top1=100 * hits / images, loss=total / images)
        for hits, total in zip(correct.tolist(), loss.tolist(), strict=True)
    ]
