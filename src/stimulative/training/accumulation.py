"""Batches that make up one optimiser step, and what share each of them has in it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stimulative.data import Batch, Loader, every, numbers_of
from stimulative.methods import Numbered
from stimulative.training.measuring import samples_in


class StepPart(NamedTuple):
    """A batch of an optimiser step.

    Args:
        x: What the model takes.
        y: Its targets.
        share: The share of the batch's gradient in that of the step; a scalar tensor on the device of the targets where
            it goes by what counts of them, which takes nobody's waiting.
        last: Whether it is the step's last one.
        numbered: Which training samples it is of; None where they have no numbers.
    """

    x: Any
    y: Tensor
    share: float | Tensor
    last: bool
    numbered: Numbered | None = None


def parts(batches: Loader, steps: int, accumulate: int, *, by_tokens: bool, done: int = 0) -> Iterator[StepPart]:
    """Divide the batches of an epoch into optimiser steps.

    Args:
        batches: The batches.
        steps: How many of them are trained on.
        accumulate: Batches of an optimiser step; the epoch's last one may have less.
        by_tokens: Weigh each batch by the tokens in it that count, of which padding leaves more or less. Otherwise
            batches count alike. It reads the batches of a step before the first of them is given.
        done: How many were trained on before, whole optimiser steps; they are left out.
    """
    source = every(batches, done) if done < steps else iter(())
    divided = _divided(source, range(done, steps, accumulate), steps, accumulate, by_tokens)
    return (part._replace(numbered=numbered_in(batches, at)) for at, part in enumerate(divided, start=done))


def numbered_in(batches: Loader, number: int) -> Numbered | None:
    """Which samples a batch of the present epoch is of; None where they have no numbers.

    Args:
        batches: The batches.
        number: The number of the batch, from 0.
    """
    known = numbers_of(batches, number)
    return None if known is None else Numbered(*known)


class CannotRead(Exception):
    """Reading the next batch has failed; the error is its cause."""


def reading(parts: Iterator[StepPart]) -> Iterator[StepPart]:
    """The same, whose errors can be told from those of training.

    Raises:
        CannotRead: In place of whatever reading raises.
    """
    while True:
        try:
            part = next(parts)
        except StopIteration:
            return
        except Exception as error:
            raise CannotRead from error
        yield part


def _shares(counts: Sequence[Tensor | int]) -> Sequence[Tensor | float]:
    """What share each of some numbers of samples has in their sum."""
    known = [count for count in counts if isinstance(count, int)]
    if len(known) == len(counts):
        return [count / max(1, sum(known)) for count in known]
    several = torch.stack([torch.as_tensor(count) for count in counts])
    several = several.float() if several.device.type == "mps" else several.double()
    return (several / several.sum().clamp(min=1)).unbind()


def _divided(
    source: Iterator[Batch], firsts: range, steps: int, accumulate: int, by_tokens: bool
) -> Iterator[StepPart]:
    for first in firsts:
        size = min(accumulate, steps - first)
        if by_tokens and size > 1:
            group = list(itertools.islice(source, size))
            shares = _shares([samples_in(y) for _, y in group])
        else:
            group, shares = itertools.islice(source, size), [1 / size] * size
        for place, ((x, y), share) in enumerate(zip(group, shares, strict=False), start=1):
            yield StepPart(x, y, share, place == size)
