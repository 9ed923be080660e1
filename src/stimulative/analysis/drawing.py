"""Which subnets of a network are measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from stimulative.errors import UsageError
from stimulative.residual import Kept, ResidualNetwork, Subnet, SubnetLike, SubnetSpace, uniform

Chosen = int | Literal["auto", "all"] | Sequence[SubnetLike]

AUTO_MOST = 1_000

_ALL_MOST = 100_000


def choose_subnets(network: ResidualNetwork, subnets: Chosen, seed: int, kept: Kept = "ordered") -> list[Subnet]:
    """The subnets to measure.

    Args:
        network: The network.
        subnets: ``"auto"`` for all subnets if they are at most 1,000, else 1,000 different ones drawn uniformly, the
            main net and the smallest always among them; ``"all"``; how many to draw, with the same two among them
            where it is 2 or more; or the subnets themselves.
        seed: The seed of the draw.
        kept: Which blocks a stage of a subnet keeps at a given depth; a choice of subnets that are named does not read
            it.

    Raises:
        UsageError: If the number is not one, all are too many to list, or a subnet is not the network's.
    """
    space = network.space.keeping(kept)
    certain = [space.smallest, network.full]
    if subnets == "auto":
        return list(space) if space.count <= AUTO_MOST else draw(space, AUTO_MOST, seed, certain)
    if subnets == "all":
        if space.count > _ALL_MOST:
            raise UsageError(f"there are {space.count:,} subnets; measure some of them: subnets=N")
        return list(space)
    if isinstance(subnets, str):
        raise UsageError(f"subnets: got {subnets!r}, allowed: auto, all, a number, or a list of subnets")
    if not isinstance(subnets, int):
        if not subnets:
            raise UsageError("there is no subnet to measure; name one or more")
        return sorted({network.resolve(subnet) for subnet in subnets})
    if subnets < 1:
        raise UsageError(f"the number of subnets is 1 or more, or 'all'; got {subnets}")
    return list(space) if subnets >= space.count else draw(space, subnets, seed, certain if subnets > 1 else ())


def draw(space: SubnetSpace, count: int, seed: int, certain: Sequence[Subnet] = ()) -> list[Subnet]:
    """So many different subnets of a space, drawn uniformly.

    Args:
        space: The space, which has no fewer.
        count: How many.
        seed: The seed of the draw.
        certain: Subnets that are among them in any case.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = set(certain)
    while len(drawn) < count:
        drawn.add(uniform(space, generator))
    return sorted(drawn)
