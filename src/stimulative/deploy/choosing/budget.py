"""Which subnets are within limits of operations and parameters; both are known before anything is measured."""

from __future__ import annotations

from stimulative.analysis import CostModel
from stimulative.deploy.choosing.limits import Limits
from stimulative.deploy.choosing.picking import written
from stimulative.errors import UsageError
from stimulative.residual import Subnet, SubnetSpace
from stimulative.runs import CostName

WHOLE_MOST = 1_000
"""Spaces of up to so many subnets are looked at whole, larger ones are searched."""


class Budget:
    """The subnets of a space that are within limits of operations and parameters.

    Args:
        space: The space.
        costs: What subnets cost.
        limits: The limits; those of operations and parameters are looked at.

    Raises:
        UsageError: If no subnet is within them, with the one that comes closest. Of a large space each limit is looked
            at by itself.
    """

    def __init__(self, space: SubnetSpace, costs: CostModel, limits: Limits) -> None:
        self.space = space
        self.costs = costs
        self.limits: dict[CostName, float] = {
            name: limit for name, limit in limits.costs.items() if name != "latency_ms"
        }
        self.searched = space.count > WHOLE_MOST
        least: dict[CostName, Subnet] = {name: self._least(name) for name in self.limits}
        for name, subnet in least.items():
            if self._value(subnet, name) > self.limits[name]:
                raise UsageError(
                    f"no subnet has at most {written(name, self.limits[name])}: subnet {subnet} has the least, "
                    f"{written(name, self._value(subnet, name))}"
                )
        if not self.searched and not self.within():
            closest = "; ".join(
                f"with the least {name}, subnet {subnet}, has "
                + " and ".join(written(other, self._value(subnet, other)) for other in self.limits)
                for name, subnet in least.items()
            )
            raise UsageError(f"no subnet has {self}: that {closest}")

    def __str__(self) -> str:
        return " and ".join(f"at most {written(name, limit)}" for name, limit in self.limits.items())

    def allows(self, subnet: Subnet) -> bool:
        """Whether a subnet is within the limits."""
        cost = self.costs.of(subnet)
        return all(getattr(cost, name) <= limit for name, limit in self.limits.items())

    def within(self) -> list[Subnet]:
        """All subnets within the limits; of spaces that are small enough."""
        return [subnet for subnet in self.space if self.allows(subnet)]

    def _value(self, subnet: Subnet, name: CostName) -> int:
        return getattr(self.costs.of(subnet), name)

    def _least(self, name: CostName) -> Subnet:
        """The subnet that costs least."""
        if not self.searched:
            return min(self.space, key=lambda subnet: self._value(subnet, name))
        if self.space.kept != "unordered":
            return self.space.smallest
        stages = []
        for blocks, fixed, (low, _) in zip(self.costs.blocks, self.space.fixed, self.space.ranges, strict=True):
            free = sorted(range(int(fixed), len(blocks)), key=lambda block: getattr(blocks[block], name))
            stages.append(tuple(sorted([*range(int(fixed)), *free[: low - int(fixed)]])))
        return Subnet(tuple(stages))
