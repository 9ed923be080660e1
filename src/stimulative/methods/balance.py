"""The weight of a method's subnet term over training: a linear rise from 0."""

from __future__ import annotations


def ramped(balance: float, ramp: float, step: int, total_steps: int | None) -> float:
    """The balance at a step: it rises linearly over a share of training, and stays.

    Args:
        balance: The balance at the end of the rise.
        ramp: Share of training over which it rises, 0 to 1; 0 is the whole balance from the first step on.
        step: Number of the step, from 0.
        total_steps: How many steps training takes; unknown (None), the balance is constant.
    """
    if total_steps is None or ramp == 0:
        return balance
    return balance * min(1.0, (step + 1) / (ramp * total_steps))


ADVICE = (
    "a lower method.balance or a longer method.balance_ramp: a large balance early on makes main net and subnets agree "
    "on nothing"
)
"""What to try where a net learns nothing beside its subnets."""
