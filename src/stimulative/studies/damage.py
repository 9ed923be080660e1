"""Which nets destruction leaves of a main net: blocks deleted, or made to run in each other's place.

The operations are those of Veit, Wilber and Belongie (2016, "Residual Networks Behave Like Ensembles of Relatively
Shallow Networks", arXiv 1605.06431): delete each single block, delete k random ones, swap k random pairs. Deleting a
block leaves its shortcut; where nothing else is in the way, a stage may lose all its blocks. What a stage cannot do
without, its first block where that changes stride or width, is never touched.

A pair is two blocks of one stage, since blocks of different stages differ in shape. The k swaps follow one another,
each pair drawn uniformly from those that lead further away from the original order. Without that condition a swap may
undo an earlier one, and what is called k swaps is fewer; with it k is the least number of swaps to that order, and goes
up to the number of swappable blocks less one for each stage.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import Any, NamedTuple

import torch

from stimulative.data import generator_for
from stimulative.errors import UsageError
from stimulative.residual import Stage, Subnet, skippable, without

Place = tuple[int, int]
"""The number of a stage, and of a block in it."""


class Draws(NamedTuple):
    """Nets that are left after as many operations.

    Args:
        k: The number of operations.
        subnets: The nets, all different.
        exhaustive: Whether these are all that there can be, rather than drawn.
    """

    k: int
    subnets: list[Subnet]
    exhaustive: bool


@dataclass(frozen=True)
class Damage:
    """All that is done to a main net.

    Args:
        main: The main net itself.
        singles: What is left without each single block that may be deleted.
        deletions: What is left without k random ones, for each k.
        swaps: What k random swaps make of it, for each k; empty where no two blocks may be swapped.
    """

    main: Subnet
    singles: dict[Place, Subnet]
    deletions: list[Draws]
    swaps: list[Draws]

    @property
    def subnets(self) -> list[Subnet]:
        """All these nets, each once, those that share their first blocks beside each other."""
        drawn = [subnet for draws in (*self.deletions, *self.swaps) for subnet in draws.subnets]
        return sorted({self.main, *self.singles.values(), *drawn})


def damage(stages: Sequence[Stage], draws: int, seed: int) -> Damage:
    """Delete each single block, delete k random blocks, swap k random pairs.

    Args:
        stages: The stages of the main net.
        draws: The number of nets for each k; all there are, each once, where there are no more.
        seed: The seed of the draws. Nets of the same structure get the same draws, and those of one k do not depend on
            the others.

    Raises:
        UsageError: If the number of draws is below 1.
    """
    if draws < 1:
        raise UsageError(f"the number of draws is 1 or more, got {draws}")
    singles = {place: without(stages, {place}) for place in skippable(stages)}
    return Damage(without(stages, ()), singles, deletions(stages, draws, seed), swaps(stages, draws, seed))


def swappable(stages: Sequence[Stage]) -> list[list[Place]]:
    """The blocks that may run in each other's place, by stage; stages with no two of them are left out.

    Blocks whose outputs are concatenated (DenseNet's) or wider than their inputs have a width of their own each, so
    that none can take another's place.
    """
    by_stage: dict[int, list[Place]] = {}
    for number, block in skippable(stages):
        if not stages[number].in_own_order:
            by_stage.setdefault(number, []).append((number, block))
    return [places for places in by_stage.values() if len(places) > 1]


def deletions(stages: Sequence[Stage], draws: int, seed: int) -> list[Draws]:
    """Delete k random blocks, for k from 1 to all that may be deleted; see ``damage``."""
    places = skippable(stages)
    found = []
    for k in range(1, len(places) + 1):
        if comb(len(places), k) <= draws:
            found.append(Draws(k, [without(stages, chosen) for chosen in combinations(places, k)], True))
            continue
        generator = generator_for(seed, f"delete {k} blocks")

        def draw(k: int = k, generator: torch.Generator = generator) -> Subnet:
            chosen = torch.randperm(len(places), generator=generator)[:k].tolist()
            return without(stages, {places[position] for position in chosen})

        found.append(Draws(k, _different(draw, draws), False))
    return found


def swaps(stages: Sequence[Stage], draws: int, seed: int) -> list[Draws]:
    """Swap k random pairs of blocks of the same stage, for k from 1 to as many as lead further away; see ``damage``."""
    of_stage = swappable(stages)
    found = []
    for k, orders in enumerate(numbers_of_orders([len(places) for places in of_stage])):
        if k == 0:
            continue
        generator = generator_for(seed, f"swap {k} pairs")

        def draw(k: int = k, generator: torch.Generator = generator) -> Subnet:
            return _swapped(stages, of_stage, k, generator)

        if orders <= draws:
            found.append(Draws(k, sorted(_different(draw, orders)), True))
        else:
            found.append(Draws(k, _different(draw, draws), False))
    return found


def numbers_of_orders(sizes: Sequence[int]) -> list[int]:
    """For k = 0, 1, …: how many orders of groups of blocks are just k swaps within groups away from the original.

    The permutations of n that take k transpositions and no fewer number the coefficient of x^k in
    (1 + x)(1 + 2x) … (1 + (n - 1)x), which is the unsigned Stirling number of the first kind [n, n - k].
    """
    counts = [1]
    for size in sizes:
        for factor in range(1, size):
            counts = [a + factor * b for a, b in zip([*counts, 0], [0, *counts], strict=True)]
    return counts


def tau(stages: Sequence[Stage], subnet: Subnet) -> float:
    """Kendall's rank correlation of the order of all swappable blocks with their original order; 1 is unchanged."""
    from scipy.stats import kendalltau

    original = [place for places in swappable(stages) for place in places]
    order = [original.index((number, subnet.stages[number][position])) for number, position in original]
    correlation: Any = kendalltau(range(len(order)), order)
    return round(float(correlation.statistic), 12)  # square roots in it make 0.9999999999999999 of 1


def _swapped(
    stages: Sequence[Stage], of_stage: Sequence[Sequence[Place]], k: int, generator: torch.Generator
) -> Subnet:
    order = [list(range(stage.blocks)) for stage in stages]
    # a swap leads further away if it joins two cycles of the permutation, and back if it splits one
    cycle = {place: place for places in of_stage for place in places}
    pairs = [pair for places in of_stage for pair in combinations(places, 2)]
    for _ in range(k):
        first, second = pairs[int(torch.randint(len(pairs), (), generator=generator))]
        (number, a), (_, b) = first, second
        order[number][a], order[number][b] = order[number][b], order[number][a]
        joined, gone = cycle[first], cycle[second]
        cycle.update({place: joined for place, of in cycle.items() if of == gone})
        pairs = [(one, other) for one, other in pairs if cycle[one] != cycle[other]]
    return Subnet(tuple(tuple(stage) for stage in order))


def _different(draw: Callable[[], Subnet], number: int) -> list[Subnet]:
    drawn: dict[Subnet, None] = {}
    while len(drawn) < number:
        drawn[draw()] = None
    return list(drawn)
