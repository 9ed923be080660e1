"""One subnet of a family: how good it is and what it costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from stimulative.residual import Subnet
from stimulative.runs.score import Score

CostName = Literal["flops", "parameters", "latency_ms"]
COSTS: tuple[CostName, ...] = get_args(CostName)


@dataclass(frozen=True)
class Cost:
    """The cost of one net.

    Args:
        parameters: The number of parameters of what runs.
        flops: Floating-point operations of a forward pass on the example; a multiply-add counts as two.
    """

    parameters: int
    flops: int


@dataclass(frozen=True)
class Latency:
    """How long one forward pass of a batch takes.

    Args:
        median_ms: The median over rounds, in milliseconds.
        iqr_ms: The spread: the distance between the first and the third quartile, in milliseconds.
    """

    median_ms: float
    iqr_ms: float


@dataclass(frozen=True)
class Member:
    """One subnet of a family.

    Args:
        subnet: The subnet.
        score: Its accuracy and loss.
        cost: Its parameters and operations.
        latency: How long it takes on the machine that measured it; None where that was not measured.
        temperature: What its logits are divided by for probabilities, and for its loss; None where none was fitted.
        validation_quality: How good it is on the validation part, by which it may be selected; None where that
            was not measured.
    """

    subnet: Subnet
    score: Score
    cost: Cost
    latency: Latency | None = None
    temperature: float | None = None
    validation_quality: float | None = None

    def cost_in(self, cost: CostName) -> float | None:
        """One of the costs; None if it was not measured."""
        if cost == "latency_ms":
            return None if self.latency is None else self.latency.median_ms
        return getattr(self.cost, cost)
