"""A search for a good subnet where there are too many to measure them all.

An evolutionary search within a budget, as in once-for-all networks (Cai et al., ICLR 2020, arXiv 1908.09791): a first
population at random; then, generation by generation, the best of all that was measured become parents, a quarter as
many as a population, and the next population is half mutations and half crossovers of them. What is over the budget is
never measured: it loses blocks at random until it is affordable. Unlike there, accuracy is measured and not predicted,
so nothing is measured twice, and the number of measurements is bounded. A crossover takes each stage whole from one
parent, unless the space is unordered: then each block. Mutations change a stage by one block, or draw it anew.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

from stimulative.residual import Subnet, SubnetSpace, uniform

POPULATION = 32
_PARENTS = 0.25
_TRIES = 50  # for one new child, before a random subnet takes its place

T = TypeVar("T")


def search(
    space: SubnetSpace,
    measure: Callable[[Sequence[Subnet]], Sequence[T]],
    rank: Callable[[T], Any],
    affordable: Callable[[Subnet], bool],
    *,
    first: Sequence[Subnet] = (),
    evaluations: int,
    seed: int,
    population: int = POPULATION,
) -> list[T]:
    """Measure subnets, and ever more of those that are like the best ones.

    The same seed gives the same search, where measuring the same subnet gives the same result.

    Args:
        space: Where to search.
        measure: Measures several subnets at once; never the same one twice.
        rank: What to sort results by, the best first.
        affordable: Whether a subnet is within the budget. Taking blocks away is supposed to lead there.
        first: Affordable subnets that are in the first population in any case.
        evaluations: How many subnets to measure at most.
        seed: The seed of everything random.
        population: How many to measure at once.

    Returns:
        All that was measured, the best first.
    """
    moves = _Moves(space, seed)
    measured: dict[Subnet, T] = {}
    while len(measured) < evaluations:
        wanted = min(population, evaluations - len(measured))
        ranked = sorted(measured, key=lambda subnet: rank(measured[subnet]))
        parents = ranked[: max(2, round(population * _PARENTS))]
        new = list(dict.fromkeys(first))[:wanted] if not measured else []
        for number in range(wanted - len(new)):
            child = _child(moves, parents, affordable, {*measured, *new}, crossed=number % 2 == 1)
            if child is not None:
                new.append(child)
        if not new:
            break
        measured.update(zip(new, measure(new), strict=True))
    return sorted(measured.values(), key=rank)


def _child(
    moves: _Moves,
    parents: Sequence[Subnet],
    affordable: Callable[[Subnet], bool],
    known: set[Subnet],
    *,
    crossed: bool,
) -> Subnet | None:
    """A subnet that is not known yet and within the budget; None if none was found."""
    for attempt in range(2 * _TRIES):
        if len(parents) < 2 or attempt >= _TRIES:
            child = moves.drawn()
        elif crossed:
            child = moves.crossed(*moves.random.sample(list(parents), 2))
        else:
            child = moves.mutated(moves.random.choice(list(parents)))
        child = moves.shrunk(child, affordable)
        if child is not None and child not in known:
            return child
    return None


class _Moves:
    """Steps from subnets to others of the same space.

    Args:
        space: The space.
        seed: The seed of all steps.
    """

    def __init__(self, space: SubnetSpace, seed: int) -> None:
        self.space = space
        self.random = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)

    def drawn(self) -> Subnet:
        """Any subnet, all equally likely."""
        return uniform(self.space, self.generator)

    def mutated(self, subnet: Subnet) -> Subnet:
        """At least one stage changed: half the time by one block, else drawn anew."""
        fresh = self.drawn()
        certain = self.random.randrange(len(subnet.stages))
        stages = list(subnet.stages)
        for stage in range(len(stages)):
            if stage == certain or self.random.random() < 1 / len(stages):
                stepped = self.random.random() < 0.5
                stages[stage] = self._stepped(stage, stages[stage]) if stepped else fresh.stages[stage]
        return Subnet(tuple(stages))

    def crossed(self, one: Subnet, other: Subnet) -> Subnet:
        """Each stage from one of two subnets; of an unordered space each block."""
        pairs = enumerate(zip(one.stages, other.stages, strict=True))
        if self.space.kept != "unordered":
            return Subnet(tuple(self.random.choice(pair) for _, pair in pairs))
        return Subnet(tuple(self._mixed(stage, *pair) for stage, pair in pairs))

    def shrunk(self, subnet: Subnet, affordable: Callable[[Subnet], bool]) -> Subnet | None:
        """The subnet, less as many random blocks as it takes; None if no block can go any more."""
        while not affordable(subnet):
            lows = [low for low, _ in self.space.ranges]
            deep = [stage for stage, depth in enumerate(subnet.depths) if depth > lows[stage]]
            if not deep:
                return None
            stage = self.random.choice(deep)
            stages = list(subnet.stages)
            stages[stage] = self._resized(stage, stages[stage], -1)
            subnet = Subnet(tuple(stages))
        return subnet

    def _stepped(self, stage: int, kept: tuple[int, ...]) -> tuple[int, ...]:
        """One block more or less; of an unordered space also another one instead."""
        low, high = self.space.ranges[stage]
        steps = [step for step in (-1, 1) if low <= len(kept) + step <= high]
        if self.space.kept == "unordered" and int(self.space.fixed[stage]) < len(kept) < self.space.lengths[stage]:
            steps.append(0)
        if not steps:
            return kept
        step = self.random.choice(steps)
        if step == 0:
            out = self._resized(stage, kept, -1)
            return self._resized(stage, out, 1)
        return self._resized(stage, kept, step)

    def _resized(self, stage: int, kept: tuple[int, ...], step: int) -> tuple[int, ...]:
        if self.space.kept != "unordered":
            depths = [low for low, _ in self.space.ranges]
            depths[stage] = len(kept) + step
            return self.space.at(depths).stages[stage]
        first = int(self.space.fixed[stage])
        if step > 0:
            free = [block for block in range(first, self.space.lengths[stage]) if block not in kept]
            return tuple(sorted((*kept, self.random.choice(free)))) if free else kept
        droppable = [block for block in kept if block >= first]
        gone = self.random.choice(droppable) if droppable else None
        return tuple(block for block in kept if block != gone)

    def _mixed(self, stage: int, one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
        """Blocks of two parents: those of both, and each of the others with a chance of a half."""
        low, high = self.space.ranges[stage]
        both = set(one) & set(other)
        kept = tuple(sorted(both | {block for block in set(one) ^ set(other) if self.random.random() < 0.5}))
        while len(kept) < low:
            kept = self._resized(stage, kept, 1)
        while len(kept) > high:
            kept = self._resized(stage, kept, -1)
        return kept
