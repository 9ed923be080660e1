"""How likely a sampler draws each subnet: exactly, where the sampler is one of the library's and can be listed.

The probabilities are those of ``sampling``, written as formulas instead of draws. What cannot be
listed (a sampler of one's own, or too many subnets) is drawn many times, and said to be an estimate.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from stimulative.errors import UsageError
from stimulative.residual.sampling import SAMPLERS, Sampler
from stimulative.residual.subnet import Subnet, SubnetSpace, by_importance

DRAWS = 4_000
MOST = 20_000
"""More subnets than that are drawn, not listed."""


@dataclass(frozen=True)
class Odds:
    """How likely each subnet is drawn.

    Args:
        of: By subnet.
        drawn: How many draws this comes from; None where it is exact.
    """

    of: Mapping[Subnet, float]
    drawn: int | None = None


def odds_of(draw: Sampler, space: SubnetSpace) -> Odds:
    """How likely a sampler draws each subnet of a space.

    Args:
        draw: The sampler, as ``resolve_sampler`` gives it or a function of one's own.
        space: The space.
    """
    formula = _FORMULAS.get(draw.func) if isinstance(draw, partial) else _FORMULAS.get(draw)
    listed = None if formula is None else formula(space, **getattr(draw, "keywords", {}))
    if listed is not None:
        return Odds(listed)
    generator = torch.Generator().manual_seed(0)
    drawn = Counter(draw(space, generator) for _ in range(DRAWS))
    return Odds({subnet: count / DRAWS for subnet, count in drawn.items()}, DRAWS)


def corrections(draw: Sampler, space: SubnetSpace) -> dict[Subnet, float]:
    """Importance weights: how likely ordered sampling draws each subnet, over how likely a sampler does.

    The mean of what is measured of subnets, each times its weight, is then expected to be that of ordered sampling.

    Args:
        draw: The sampler.
        space: The space.

    Raises:
        UsageError: If the sampler's probabilities are not known exactly, or it never draws some ordered subnet.
    """
    odds = odds_of(draw, space)
    if odds.drawn is not None:
        raise UsageError(
            "corrected: how likely this sampler draws each subnet is not known exactly, or there are more than "
            f"{MOST:,}: use ordered, late or nested, or leave it out"
        )
    ordered = space.keeping("ordered")
    missing = next((subnet for subnet in ordered if not odds.of.get(subnet)), None)
    if missing is not None:
        raise UsageError(
            f"corrected: this sampler never draws the ordered subnet {missing}, which no weight can make up for; use "
            "ordered, late or nested, or leave it out"
        )
    return {subnet: 1 / ordered.count / odd if subnet in ordered else 0.0 for subnet, odd in odds.of.items()}


_Listed = dict[Subnet, float] | None


def _uniform(kept: Any) -> Callable[..., _Listed]:
    def listed(space: SubnetSpace, ranges: Any = None) -> _Listed:
        space = (space if ranges is None else space.restrict(ranges)).keeping(kept)
        return dict.fromkeys(space, 1 / space.count) if space.count <= MOST else None

    return listed


def _ranked(space: SubnetSpace, order: Any, ranges: Any = None) -> _Listed:
    return _uniform(by_importance(order))(space, ranges)


def _interstage(space: SubnetSpace, ranges: Any = None, least: Any = None) -> _Listed:
    return None if ranges is None else _uniform("ordered")(space, ranges)


def _halves(space: SubnetSpace, together: bool = True) -> _Listed:
    base = SAMPLERS["halves"](space, torch.Generator())
    if together:
        return {base: 1.0}
    both = [{depth, high} for depth, (_, high) in zip(base.depths, space.ranges, strict=True)]
    if math.prod(map(len, both)) > MOST:
        return None
    return _combined([[(depth, 1 / len(depths)) for depth in sorted(depths)] for depths in both])


def _unordered(space: SubnetSpace, keep: float = 0.5, ranges: Any = None) -> _Listed:
    space = (space if ranges is None else space.restrict(ranges)).unordered()
    if space.count > MOST:
        return None
    # each stage is drawn given that its depth is within its range, so weights are normalised stage by stage
    weights = {subnet: keep**subnet.blocks * (1 - keep) ** -subnet.blocks for subnet in space}
    total = sum(weights.values())
    return {subnet: weight / total for subnet, weight in weights.items()}


def _late(space: SubnetSpace, whole: float = 0.5) -> _Listed:
    last = len(space.ranges) - 1
    found: dict[Subnet, float] = defaultdict(float)
    if math.prod(high - low + 1 for low, high in space.ranges) > MOST:
        return None
    for kept in range(last + 1):
        chance = whole**kept * (1 if kept == last else 1 - whole)
        stages = [[(high, 1.0)] for _, high in space.ranges[:kept]]
        stages += [[(d, 1 / (high - low + 1)) for d in range(low, high + 1)] for low, high in space.ranges[kept:]]
        for subnet, probability in _combined(stages).items():
            found[subnet] += chance * probability
    return dict(found)


def _nested(space: SubnetSpace, decay: float = 0.5) -> _Listed:
    if math.prod(high - low + 1 for low, high in space.ranges) > MOST:
        return None
    stages = []
    for low, high in space.ranges:
        weights = {depth: decay ** (high - depth) for depth in range(low, high + 1)}
        stages.append([(depth, weight / sum(weights.values())) for depth, weight in weights.items()])
    return _combined(stages)


def _combined(stages: Sequence[Sequence[tuple[int, float]]]) -> dict[Subnet, float]:
    """Subnets of which each stage's depth is drawn for itself."""
    return {
        Subnet.from_depths([depth for depth, _ in chosen]): math.prod(probability for _, probability in chosen)
        for chosen in itertools.product(*stages)
    }


_FORMULAS: Mapping[Any, Callable[..., _Listed]] = {
    SAMPLERS["ordered"]: _uniform("ordered"),
    SAMPLERS["suffix"]: _uniform("suffix"),
    SAMPLERS["every_other"]: _uniform("every_other"),
    SAMPLERS["interstage"]: _interstage,
    SAMPLERS["unordered"]: _unordered,
    SAMPLERS["late"]: _late,
    SAMPLERS["nested"]: _nested,
    SAMPLERS["ranked"]: _ranked,
    SAMPLERS["halves"]: _halves,
}
