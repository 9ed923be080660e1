"""Accuracy and loss of a network and of its subnets on a data set.

Of text each position of a sequence whose target is not -100 is a sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from stimulative.data import Batch, Data, every
from stimulative.errors import UsageError
from stimulative.objectives import counted
from stimulative.ranks import division
from stimulative.residual import ResidualNetwork, Statistics, Subnet, evaluating, map_tensors, tensors_in
from stimulative.runs import MainScore, Score
from stimulative.tasks import Classification, Measurement, Meter, Task


def in_format(x: Any, dtype: torch.dtype) -> Any:
    """What a model takes, with floating point tensors in a number format; tokens and masks stay integers."""
    return map_tensors(lambda part: part.to(dtype) if part.is_floating_point() else part, x)


def in_precision_of(network: ResidualNetwork, batches: Iterable[Any]) -> Iterator[Batch]:
    """Batches as pairs of what the network takes, in the number format of its weights, and targets.

    Raises:
        UsageError: If a batch has no targets, or nothing that the network takes (see ``ResidualNetwork.split``).
    """
    for batch in batches:
        x, rest = network.split(batch)
        if not rest:
            raise UsageError(
                "a batch is what the network takes, followed by targets; there is nothing behind the input in this "
                f"{type(batch).__name__}. Give batches with targets, such as (x, y) or a mapping with labels"
            )
        yield x, rest[0]


def samples_in(y: Tensor) -> Tensor | int:
    """How many samples the targets of a batch are: images, or positions that count."""
    mask = counted(y)
    return len(y) if mask is None else mask.sum()


def measure(
    network: ResidualNetwork,
    batches: Iterable[Any],
    subnets: Sequence[Subnet] | None = None,
    *,
    statistics: Statistics | None = None,
    temperatures: Sequence[float] | None = None,
    aim: Task | None = None,
    each: Callable[[int, Any, Any], Any] | None = None,
    after_batch: Callable[[], Any] | None = None,
) -> list[Score]:
    """Measure subnets of a network in evaluation mode, sharing what they have in common.

    Args:
        network: The network; its mode comes back as it was.
        batches: What the model takes, followed by targets; of text, by the token that follows each position.
        subnets: Which subnets; by default the main net alone.
        statistics: Statistics to normalise with, instead of the network's own.
        temperatures: What to divide each subnet's logits by, one number a subnet; 1 by default. It changes the loss
            alone.
        aim: What the network is for, which says what its outputs are compared with; classification by default.
        each: Called with the position of each subnet, its outputs and the targets of each batch, for whoever wants to
            know more of them than their score.
        after_batch: Called after each batch, to show progress.

    Returns:
        A score for each subnet, in their order.

    Raises:
        UsageError: If there is no batch, targets are not those of the task, or there is not a temperature for each
            subnet.
    """
    aim = aim or Classification()
    found = _measured(network, batches, subnets, statistics, temperatures, aim, after_batch, each)
    return [Score.of(one, aim.measure) for one in found]


def _measured(
    network: ResidualNetwork,
    batches: Iterable[Batch],
    subnets: Sequence[Subnet] | None,
    statistics: Statistics | None,
    temperatures: Sequence[float] | None,
    aim: Task,
    after_batch: Callable[[], Any] | None,
    each: Callable[[int, Any, Any], Any] | None = None,
) -> list[Measurement]:
    chosen = [network.full] if subnets is None else list(subnets)
    if temperatures is not None and len(temperatures) != len(chosen):
        raise UsageError(f"{len(chosen)} subnets need as many temperatures, got {len(temperatures)}")

    def meters() -> list[Meter]:
        return [aim.meter(temperature=1.0 if temperatures is None else temperatures[at]) for at in range(len(chosen))]

    shares, found = division(), meters()
    if shares is not None:
        found[0].sums()  # refused before any batch, of which not all processes have one
    own: list[list[dict[str, Any]]] = []
    batch = 0
    with evaluating(network), network.uncompiled(), torch.no_grad():
        mine = batches if shares is None else every(batches, shares.rank, shares.size)
        for batch, (x, y) in enumerate(in_precision_of(network, mine), start=1):
            of_batch = found if shares is None else meters()
            for position, returned, _ in network.passes(x, chosen, statistics=statistics):
                outputs = aim.outputs_of(returned)
                if position == 0:
                    on_cpu = all(tensor.device.type == "cpu" for tensor in tensors_in(outputs))
                    aim.check(outputs, y, values=on_cpu or batch == 1)
                of_batch[position].add(outputs, y)
                if each is not None:
                    each(position, outputs, y)
            if shares is not None:
                own.append([meter.sums() for meter in of_batch])
            if after_batch is not None:
                after_batch()
    for of_all in () if shares is None else shares.in_order(own):
        for meter, sums in zip(found, of_all, strict=True):
            meter.put_together(sums)
    if not found[0].samples:
        raise UsageError("there is nothing to measure on: the data set has no batch")
    return [meter.measured() for meter in found]


def measure_main(
    network: ResidualNetwork,
    batches: Iterable[Batch],
    data: Data,
    *,
    temperature: float | None = None,
    after_batch: Callable[[], Any] | None = None,
) -> MainScore:
    """Measure a main net with its own statistics; see ``measure``.

    Args:
        network: The network.
        batches: Pairs of what the model takes and targets.
        data: The data that they are of.
        temperature: What to divide logits by for the loss, where one was fitted.
        after_batch: Called after each batch.

    Raises:
        UsageError: As ``measure``.
    """
    temperatures = None if temperature is None else [temperature]
    (found,) = _measured(network, batches, None, None, temperatures, data.aim, after_batch)
    of_classes = {data.class_names[number]: value for number, value in found.by_class.items()}
    score = Score.of(found, data.aim.measure)
    return MainScore(**vars(score), temperature=temperature, by_class=of_classes or None)
