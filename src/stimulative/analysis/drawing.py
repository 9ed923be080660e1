"""What is measured of what there is: which subnets of a network, which images of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch.utils import _pytree as pytree

from stimulative.data import Batch, Loader, generator_for
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
            raise UsageError(f"there are {space.count:,} subnets; evaluate some of them: subnets=N")
        return list(space)
    if isinstance(subnets, str):
        raise UsageError(f"subnets: got {subnets!r}, allowed: auto, all, a number, or a list of subnets")
    if not isinstance(subnets, int):
        if not subnets:
            raise UsageError("there is no subnet to measure; name one or more")
        return sorted({network.resolve(subnet) for subnet in subnets})
    if subnets < 1:
        raise UsageError(f"the number of subnets is 1 or more, or 'all'; got {subnets}")
    if min(subnets, space.count) > _ALL_MOST:
        raise UsageError(f"the number of subnets is {_ALL_MOST:,} at most, got {subnets}")
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


def draw_images(loader: Loader, images: int, seed: int) -> list[Batch]:
    """Batches of so many different images of a loader; the same ones for every loader over the same images.

    Drawn, since the first images of a split that is sorted by class are of a few classes only.

    Args:
        loader: Where to draw from; all of it where it has no more.
        images: How many.
        seed: The seed of the draw.
    """
    chosen = torch.zeros(loader.images, dtype=torch.bool)
    chosen[torch.randperm(loader.images, generator=generator_for(seed, "test images"))[:images]] = True
    found, start, size = [], 0, 0
    for batch in loader:
        here = chosen[start : start + len(batch[1])].to(batch[1].device)
        found.append(pytree.tree_map_only(torch.Tensor, lambda part, here=here: part[here], batch))
        start, size = start + len(here), max(size, len(here))
    whole = pytree.tree_map(lambda *parts: torch.cat(parts), *found)
    return [
        pytree.tree_map(lambda part, first=first: part[first : first + size], whole)
        for first in range(0, len(whole[1]), size)
    ]
