"""Which of the subnets that were measured is chosen, which ones are worth timing, and which come closest if none is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from stimulative.deploy.choosing.limits import Limits
from stimulative.errors import UsageError
from stimulative.runs import CostName, Member
from stimulative.tasks import MEASURES, Measure


def order(limits: Limits, by: CostName) -> Callable[[Member], Any]:
    """What to sort subnets by, the one to choose first.

    Where a quality is asked for: those nearest to it, and of those that have it the cheapest. Else the most accurate,
    and of equally accurate ones the cheapest.

    Args:
        limits: The limits.
        by: The cost that decides.
    """

    def key(member: Member) -> Any:
        cost = member.cost_in(by)
        assert cost is not None, f"{by} of {member.subnet} is not known"
        rest = member.cost.flops, member.cost.parameters, member.subnet
        if limits.asks_for_quality:
            return limits.shortfall(member), cost, -member.score.quality, *rest
        return -member.score.quality, cost, *rest

    return key


def worth_timing(members: Sequence[Member], most: int) -> list[Member]:
    """The subnets whose latency could decide, at most so many.

    All, where there are no more. Else those than which none is at least as accurate with no more operations and no
    more blocks, which are what latency grows with; then those of the rest of which that is true, and so on. Of a layer
    that does not fit any more, members that are spread evenly over operations.
    """
    # beats[i, j]: member i is no worse than j in all three, and better in one; (members, members)
    values = np.array([(-member.score.quality, member.cost.flops, member.subnet.blocks) for member in members])
    beats = np.ones((len(members), len(members)), dtype=bool)
    differ = np.zeros_like(beats)
    for value in values.T:
        beats &= value[:, None] <= value
        differ |= value[:, None] != value
    beats &= differ
    left = np.ones(len(members), dtype=bool)
    found: list[Member] = []
    while left.any() and len(found) < most:
        layer = left & ~beats[left].any(0)
        left &= ~layer
        found += _spread([member for member, inside in zip(members, layer, strict=True) if inside], most - len(found))
    return found


def _spread(members: Sequence[Member], most: int) -> list[Member]:
    """All, or so many of them whose operations lie evenly, the least and the greatest among them."""
    ordered = sorted(members, key=lambda member: (member.cost.flops, member.subnet))
    if len(ordered) <= most:
        return ordered
    return [ordered[round(number * (len(ordered) - 1) / max(1, most - 1))] for number in range(most)]


def pick(
    members: Sequence[Member], limits: Limits, by: CostName, measure: Measure = MEASURES["images"]
) -> list[Member]:
    """The subnets that keep to all limits, the one to choose first.

    Args:
        members: Subnets that have been measured in everything that is limited.
        limits: The limits.
        by: The cost that decides.
        measure: What their quality is, for messages.

    Raises:
        UsageError: If there is none, with those that come closest.
    """
    allowed = [member for member in members if limits.allow(member)]
    if not allowed:
        raise UsageError(_none(members, limits, measure))
    return sorted(allowed, key=order(limits, by))


def _none(members: Sequence[Member], limits: Limits, measure: Measure) -> str:
    """That no subnet keeps to all limits, and which come closest."""
    good = [member for member in members if limits.shortfall(member) == 0]
    cheap = [member for member in members if replace(limits, min_top1=None, max_perplexity=None).allow(member)]
    closest = []
    if limits.asks_for_quality:
        pool = cheap or members
        best = min(pool, key=lambda member: (limits.shortfall(member), member.cost.flops, member.subnet))
        enough = " that are cheap enough" if limits.costs and cheap else ""
        has = _quality(best, limits, measure)
        closest.append(f"of the {len(pool):,} measured{enough}, subnet {best.subnet} is the best with {has}")
    for name, limit in limits.costs.items():
        known = [(value, member) for member in good or members if (value := member.cost_in(name)) is not None]
        if known and all(value > limit for value, _ in known):
            value, least = min(known, key=lambda pair: (pair[0], pair[1].subnet))
            enough = " that are good enough" if limits.asks_for_quality and good else ""
            has = written(name, value)
            closest.append(f"of the {len(known):,} measured{enough}, subnet {least.subnet} has the least: {has}")
    called = "accuracy" if measure.key == "top1" else measure.name
    wanted = [f"at most {written(name, limit)}" for name, limit in limits.costs.items()]
    if limits.min_top1 is not None:
        wanted.append(f"a validation {called} of at least {limits.min_top1:g}{measure.unit}")
    wanted += [] if limits.max_perplexity is None else [f"a perplexity of at most {limits.max_perplexity:g}"]
    return f"no subnet that was measured has {' and '.join(wanted)}: {'; '.join(closest)}"


def _quality(member: Member, limits: Limits, measure: Measure) -> str:
    perplexity = member.score.perplexity
    has = [] if limits.min_top1 is None else [measure.shown(member.score.quality)]
    has += [] if limits.max_perplexity is None or perplexity is None else [f"a perplexity of {perplexity:.4g}"]
    return " and ".join(has)


def written(cost: CostName, value: float) -> str:
    """A value of a cost: ``2.41 ms``, ``12.3M FLOPs``."""
    if cost == "latency_ms":
        return f"{value:.3g} ms"
    return f"{short(value)} {'FLOPs' if cost == 'flops' else cost}"


def short(number: float) -> str:
    """A count in a few digits: ``12.3M``."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.4g}{unit}"
    return f"{number:.4g}"
