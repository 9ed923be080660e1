"""The accuracy-cost frontier of a family: the subnets that no other one beats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from stimulative.analysis.member import Member

CostName = Literal["flops", "parameters", "latency_ms"]
COSTS: tuple[CostName, ...] = get_args(CostName)


def cost_of(member: Member, cost: CostName) -> float | None:
    """One of the costs of a subnet; None if it was not measured."""
    if cost == "latency_ms":
        return None if member.latency is None else member.latency.median_ms
    return getattr(member.cost, cost)


def frontier(family: Sequence[Member], cost: CostName = "flops") -> list[Member]:
    """The members that are not dominated: no other costs no more and is no less accurate, and is better in one of them.

    Args:
        family: The members; those whose cost is not known are left out.
        cost: Which cost.

    Returns:
        The frontier, the cheapest first. Members that are alike in both are all in it, or none.
    """
    known = [(value, member) for member in family if (value := cost_of(member, cost)) is not None]
    found: list[Member] = []
    best = float("-inf")
    by_cost = sorted(known, key=lambda pair: (pair[0], -pair[1].score.top1))
    for value, member in by_cost:
        if member.score.top1 > best:
            best = member.score.top1
            found.append(member)
        elif found and member.score.top1 == best and value == cost_of(found[-1], cost):
            found.append(member)
    return found
