"""The weight of a method's subnet term over training: a linear rise from 0."""

from __future__ import annotations

import warnings


def ramped(balance: float, ramp: float, step: int, total_steps: int | None) -> float:
    """The balance at a step: it rises linearly over a share of training, and stays.

    Args:
        balance: The balance at the end of the rise.
        ramp: Share of training over which it rises, 0 to 1; 0 is the whole balance from the first step on.
        step: Number of the batch, from 0.
        total_steps: How many batches training takes; unknown (None), the balance is constant.
    """
    if total_steps is None or ramp == 0:
        return balance
    return balance * min(1.0, (step + 1) / (ramp * total_steps))


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
