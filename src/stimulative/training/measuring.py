"""Accuracy and loss of a network and of its subnets on a data set.

Of text each position of a sequence whose target is not -100 is a sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree as pytree

from stimulative.data import Batch
from stimulative.errors import UsageError
from stimulative.objectives import IGNORED, counted, logits_of
from stimulative.residual import ResidualNetwork, Statistics, Subnet, evaluating
from stimulative.runs import Score, perplexity_of


def in_format(x: Any, dtype: torch.dtype) -> Any:
    """What a model takes, with floating point tensors in a number format; tokens and masks stay integers."""
    return pytree.tree_map_only(Tensor, lambda part: part.to(dtype) if part.is_floating_point() else part, x)


def in_precision_of(network: ResidualNetwork, batches: Iterable[Batch]) -> Iterator[Batch]:
    """The same batches, with images in the number format of the network's weights."""
    dtype = next(network.parameters()).dtype
    return ((in_format(x, dtype), y) for x, y in batches)


def samples_in(y: Tensor) -> Tensor | int:
    """How many samples the targets of a batch are: images, or positions that count."""
    mask = counted(y)
    return len(y) if mask is None else mask.sum()


def hits(logits: Tensor, y: Tensor) -> Tensor:
    """How many samples' most likely class is the right one, or the most probable one where targets are probabilities.

    Args:
        logits: Shape ``(B, classes)``, or ``(B, positions, classes)`` of text.
        y: Their targets.
    """
    return (logits.argmax(-1) == (y.argmax(-1) if y.is_floating_point() else y)).sum()


def measure(
    network: ResidualNetwork,
    batches: Iterable[Batch],
    subnets: Sequence[Subnet] | None = None,
    *,
    statistics: Statistics | None = None,
    temperatures: Sequence[float] | None = None,
    each: Callable[[int, Tensor, Tensor], Any] | None = None,
    after_batch: Callable[[], Any] | None = None,
) -> list[Score]:
    """Measure subnets of a network in evaluation mode, sharing what they have in common.

    Args:
        network: The network; its mode comes back as it was.
        batches: Pairs of what the model takes and class indices; of text, the token that follows each position.
        subnets: Which subnets; by default the main net alone.
        statistics: Statistics to normalise with, instead of the network's own.
        temperatures: What to divide each subnet's logits by, one number a subnet; 1 by default. It changes the loss
            alone.
        each: Called with the position of each subnet, its logits and the targets of each batch, for whoever wants to
            know more of them than their score.
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
    samples: Tensor | int = 0
    sequences = False
    with evaluating(network), torch.no_grad():
        for x, y in in_precision_of(network, batches):
            if correct is None or loss is None:
                correct = torch.zeros(len(chosen), device=y.device, dtype=torch.int64)
                double = None if y.device.type == "mps" else torch.float64
                loss = torch.zeros(len(chosen), device=y.device, dtype=double)
            for position, output, _ in network.passes(x, chosen, statistics=statistics):
                logits = logits_of(output)
                correct[position] += hits(logits, y)
                if each is not None:
                    each(position, logits, y)
                scaled = logits.float() if temperatures is None else logits.float() / temperatures[position]
                loss[position] += F.cross_entropy(
                    scaled.flatten(0, -2), y.flatten(), reduction="sum", ignore_index=IGNORED
                )
            samples += samples_in(y)
            sequences = y.dim() > 1
            if after_batch is not None:
                after_batch()
    count = int(samples)
    if correct is None or loss is None or not count:
        raise UsageError("there is nothing to measure on: the data set has no batch")
    losses = [total / count for total in loss.tolist()]
    return [
        Score(100 * right / count, mean, perplexity_of(mean) if sequences else None)
        for right, mean in zip(correct.tolist(), losses, strict=True)
    ]
