"""How the accuracy of a family spreads: by the number of blocks, and by the depth of each stage."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from stimulative.analysis.member import Member


def spread_of(family: Sequence[Member]) -> dict[str, Any]:
    """Mean, standard deviation (the population's), least and greatest of the top-1 accuracies, in percent.

    Of text also those of the perplexities, under ``perplexity``.
    """
    perplexities = [member.score.perplexity for member in family if member.score.perplexity is not None]
    of_perplexity = {"perplexity": _spread(perplexities)} if perplexities else {}
    return {**_spread([member.score.top1 for member in family]), **of_perplexity}


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "mean": statistics.fmean(values),
        "std": statistics.pstdev(values),
        "min": min(values),
        "max": max(values),
    }


def by_blocks(family: Sequence[Member]) -> list[dict[str, Any]]:
    """The spread among subnets of as many blocks, the fewest first."""
    groups: dict[int, list[Member]] = defaultdict(list)
    for member in family:
        groups[member.subnet.blocks].append(member)
    return [{"blocks": blocks, "subnets": len(group), **spread_of(group)} for blocks, group in sorted(groups.items())]


def by_stage(family: Sequence[Member], names: Sequence[str]) -> list[dict[str, Any]]:
    """For each stage, the spread among subnets that are as deep in it, whatever the others are.

    Args:
        family: The members.
        names: The names of the stages.
    """
    groups: dict[tuple[int, int], list[Member]] = defaultdict(list)
    for member in family:
        for stage, depth in enumerate(member.subnet.depths):
            groups[stage, depth].append(member)
    return [
        {"stage": stage, "name": names[stage], "depth": depth, "subnets": len(group), **spread_of(group)}
        for (stage, depth), group in sorted(groups.items())
    ]
