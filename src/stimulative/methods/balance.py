"""The weight of a method's subnet term over training.

It rises from 0 to its full value, linearly or along half a cosine, from the first step on or from a later one. The
authors of stimulative training publish code for a cosine that rises, one that falls, and a late start, all of them
switched off. Without subnets before the start a training is cheaper: Delayed Shrinking (Xu et al., ECCV 2024, arXiv
2407.06167) begins with subnets when the full net is half trained.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from stimulative.errors import UsageError

Shape = Literal["linear", "cosine", "cosine_down"]

BALANCE_RULES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "balance": (lambda v: v >= 0, "0 or more (the paper's lambda is 1 to 10)"),
    "balance_ramp": (lambda v: 0 <= v <= 1, "a share of training, 0 to 1"),
    "balance_start": (lambda v: 0 <= v < 1, "a share of training, from 0 to below 1"),
    "balance_shape": (lambda v: v in ("linear", "cosine", "cosine_down"), "linear, cosine or cosine_down"),
}
"""What settings of a balance have to pass, and what they are in words."""


@dataclass(frozen=True)
class BalanceSchedule:
    """The balance at each step.

    Args:
        balance: The balance at the end of a rise, or at the beginning of a fall.
        ramp: Share of the training from ``start`` on over which it rises or falls, 0 to 1; 0 is the whole balance at
            once.
        start: Share of training before which it is 0.
        shape: ``linear`` and ``cosine`` rise from 0 and stay, ``cosine_down`` falls to 0 and stays there.
    """

    balance: float
    ramp: float
    start: float = 0.0
    shape: Shape = "linear"

    def at(self, step: int, total_steps: int | None) -> float:
        """The balance at a step.

        Args:
            step: Number of the batch, from 0.
            total_steps: How many batches training takes; unknown (None), the balance is constant.

        Raises:
            UsageError: If it starts late, and nobody says how long training is.
        """
        if total_steps is None:
            if self.start:
                raise UsageError(
                    f"balance_start: {self.start} of a training whose length is not known: give total_steps, how often "
                    "the method is called, once a batch"
                )
            return self.balance
        first = math.ceil(self.start * total_steps)
        if step < first:
            return 0.0
        steps = self.ramp * (total_steps - first)
        if steps == 0:
            return self.balance
        if self.shape == "cosine_down":
            return self.balance * (1 + math.cos(math.pi * min(1.0, (step - first) / steps))) / 2
        risen = min(1.0, (step - first + 1) / steps)
        return self.balance * (risen if self.shape == "linear" else (1 - math.cos(math.pi * risen)) / 2)


def shape_problem(settings: Mapping[str, Any]) -> list[str]:
    """What is impossible about settings of a balance together."""
    if settings.get("balance_shape") == "cosine_down" and settings.get("balance_ramp", 1.0) == 0:
        return ["balance_shape: 'cosine_down' falls over balance_ramp, which is 0; give a share above 0"]
    return []


def warn_of_more_batches(step: int, total_steps: int | None) -> None:
    """Warn at the first batch after those that a training was said to take: the balance has been full for too long.

    Args:
        step: Number of the batch, from 0.
        total_steps: How many batches training was to take; None if nobody said.
    """
    if step == total_steps:
        warnings.warn(
            f"training goes on after the {total_steps} batches that total_steps says it takes, so the balance rose too "
            "fast. total_steps is how often the method is called, once a batch, also where gradients of several "
            "are accumulated before the optimiser steps: epochs * len(loader)",
            stacklevel=3,
        )


ADVICE = (
    "a lower method.balance or a longer method.balance_ramp: a large balance early on makes main net and subnets agree "
    "on nothing"
)
"""What to try where a net learns nothing beside its subnets."""
