"""Samplers: each draws a subnet from a space, given a random generator.

``ordered`` is the paper's rule (Fig. 4 of arXiv 2210.04153): a depth drawn uniformly for each stage, and the first
blocks kept. ``interstage`` is ST++'s (arXiv 2305.02507): only some stages vary. ``unordered`` keeps each block with
a probability, the rule that the paper compares ordered sampling with, and that of LayerDrop (arXiv 1909.11556).
``suffix`` and ``every_other`` draw depths as ``ordered`` does and keep the last blocks, or blocks that are spread
evenly. ``late`` is ours: it favours subnets that share a long prefix with the main net. ``nested`` favours large
subnets, as group knowledge training does (arXiv 2308.13772).

Which blocks are kept is the sampler's to say, whatever the space that it draws from says; the space gives the depths
and the fixed first blocks.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from typing import Any

import torch

from stimulative.errors import UsageError
from stimulative.residual.subnet import Kept, Subnet, SubnetSpace

Sampler = Callable[[SubnetSpace, torch.Generator], Subnet]
Ranges = Sequence[Sequence[int]]
"""The least and the greatest depth of each stage, such as ``[[3, 3], [3, 4], [3, 6], [3, 3]]`` for ResNet-50."""


def ordered(space: SubnetSpace, generator: torch.Generator, *, ranges: Ranges | None = None) -> Subnet:
    """A depth drawn uniformly from each stage's range; the first blocks are kept.

    Args:
        space: Where to draw from.
        generator: Source of randomness, on the CPU.
        ranges: Narrower (or wider) depth ranges than the space's own.
    """
    return _of_uniform_depth(space, generator, "ordered", ranges)


def suffix(space: SubnetSpace, generator: torch.Generator, *, ranges: Ranges | None = None) -> Subnet:
    """A depth drawn uniformly from each stage's range; the last blocks are kept, behind the fixed first one if any.

    Args:
        space: Where to draw from.
        generator: Source of randomness, on the CPU.
        ranges: Narrower (or wider) depth ranges than the space's own.
    """
    return _of_uniform_depth(space, generator, "suffix", ranges)


def every_other(space: SubnetSpace, generator: torch.Generator, *, ranges: Ranges | None = None) -> Subnet:
    """A depth drawn uniformly from each stage's range; blocks that are spread evenly are kept, the first among them.

    Args:
        space: Where to draw from.
        generator: Source of randomness, on the CPU.
        ranges: Narrower (or wider) depth ranges than the space's own.
    """
    return _of_uniform_depth(space, generator, "every_other", ranges)


def unordered(
    space: SubnetSpace, generator: torch.Generator, *, keep: float = 0.5, ranges: Ranges | None = None
) -> Subnet:
    """Each skippable block kept with probability ``keep``, given that the depth stays within its range.

    With ``keep`` 0.5 all of these subnets are equally likely.

    Args:
        space: Where to draw from; its order is ignored, its ranges and fixed first blocks are kept to.
        generator: Source of randomness, on the CPU.
        keep: Probability of keeping a block that may be skipped, above 0 and below 1.
        ranges: Narrower (or wider) depth ranges than the space's own.
    """
    _check_probability(keep)
    space = _restricted(space, ranges)
    stages = []
    for length, fixed, (low, high) in zip(space.lengths, space.fixed, space.ranges, strict=True):
        first = int(fixed)
        free = length - first
        # the number of kept blocks is binomial within the range, and all choices of that many are equally likely
        counts = range(low - first, high - first + 1)
        logs = torch.tensor([_log_binomial(free, k, keep) for k in counts], dtype=torch.float64)
        kept = counts[int(torch.multinomial(logs.softmax(0), 1, generator=generator))]
        chosen = torch.randperm(free, generator=generator)[:kept] + first
        stages.append((*range(first), *sorted(chosen.tolist())))
    return Subnet(tuple(stages))


def interstage(space: SubnetSpace, generator: torch.Generator, *, ranges: Ranges | None = None) -> Subnet:
    """Ordered sampling within narrower depth ranges.

    Args:
        space: Where to draw from.
        generator: Source of randomness, on the CPU.
        ranges: ``(least, greatest)`` depth of each stage, such as ``[[3, 3], [3, 4], [3, 6], [3, 3]]`` for
            ResNet-50. Without it the first and the last stage are whole and the others vary between half and all.
    """
    return ordered(space.restrict(ranges if ranges is not None else _middle_stages(space)), generator)


def late(space: SubnetSpace, generator: torch.Generator, *, whole: float = 0.5) -> Subnet:
    """Ordered sampling that favours subnets that depart late from the main net, and so share most of its pass.

    From the first stage on, each one but the last is kept whole with probability ``whole``, as long as all before it
    were; from the first that is not, depths are drawn as in ``ordered``. All ordered subnets stay possible.

    Args:
        space: Where to draw from.
        generator: Source of randomness, on the CPU.
        whole: Probability of going on to the next stage with this one whole, above 0 and below 1.
    """
    _check_probability(whole, "whole")
    kept = 0
    while kept < len(space.ranges) - 1 and float(torch.rand((), dtype=torch.float64, generator=generator)) < whole:
        kept += 1
    depths = [high for _, high in space.ranges[:kept]]
    return Subnet.from_depths([*depths, *(_integer(low, high, generator) for low, high in space.ranges[kept:])])


def nested(space: SubnetSpace, generator: torch.Generator, *, decay: float = 0.5) -> Subnet:
    """A subnet inside of the main net, most likely a large one; see ``nested_inside``.

    Args:
        space: Where to draw from.
        generator: Source of randomness, on the CPU.
        decay: How much less likely a stage is with each block less, above 0 and at most 1.
    """
    return nested_inside(space, space.full, generator, decay=decay)


def nested_inside(space: SubnetSpace, outer: Subnet, generator: torch.Generator, *, decay: float = 0.5) -> Subnet:
    """An ordered subnet inside of another one, which may be that one itself.

    Each stage's depth ``d`` is drawn from those up to the outer one's depth ``D`` with a probability in proportion to
    ``decay ** (D - d)``: what is kept is inherited, and each block less is less likely by that factor.

    Args:
        space: Where to draw from.
        outer: The subnet to stay inside of, one of the space.
        generator: Source of randomness, on the CPU.
        decay: That factor, above 0 and at most 1; at 1 all depths are equally likely.
    """
    _check_decay(decay)
    depths = []
    for outermost, (low, _) in zip(space.check(outer).depths, space.ranges, strict=True):
        weights = torch.tensor([decay**less for less in range(outermost - low + 1)], dtype=torch.float64)
        depths.append(outermost - int(torch.multinomial(weights, 1, generator=generator)))
    return Subnet.from_depths(depths)


SAMPLERS: dict[str, Callable[..., Subnet]] = {
    "ordered": ordered,
    "unordered": unordered,
    "interstage": interstage,
    "late": late,
    "nested": nested,
    "suffix": suffix,
    "every_other": every_other,
}


def uniform(space: SubnetSpace, generator: torch.Generator) -> Subnet:
    """A subnet of a space, all of them equally likely, whichever blocks its stages keep."""
    return SAMPLERS[space.kept](space, generator)


def resolve_sampler(sampler: str | Mapping[str, Any] | Sampler, space: SubnetSpace) -> Sampler:
    """A sampler from its name, from its name and settings (``{"name": "unordered", "keep": 0.8}``), or as it is.

    Raises:
        UsageError: If there is no such sampler or setting, or if it cannot draw from the space.
    """
    if callable(sampler):
        return sampler
    problem = sampler_problem(sampler)
    if problem is not None:
        raise UsageError(problem)
    settings = {"name": sampler} if isinstance(sampler, str) else dict(sampler)
    draw = partial(SAMPLERS[settings.pop("name")], **settings)
    draw(space, torch.Generator().manual_seed(0))  # unusable settings fail here rather than in the first step
    return draw


def sampler_problem(sampler: object) -> str | None:
    """What is wrong with a sampler's name or settings, before any network is known."""
    if callable(sampler):
        return None
    settings = {"name": sampler} if isinstance(sampler, str) else sampler
    if not isinstance(settings, Mapping) or "name" not in settings:
        return f"sampler: got {sampler!r}, but it is a name or a mapping with 'name' and settings of that sampler"
    name = settings["name"]
    if not isinstance(name, str) or name not in SAMPLERS:
        near = get_close_matches(str(name), SAMPLERS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"sampler: there is no sampler {name!r}, known: {', '.join(SAMPLERS)}{hint}"
    allowed = list(inspect.signature(SAMPLERS[name]).parameters)[2:]
    unknown = [key for key in settings if key != "name" and key not in allowed]
    if unknown:
        return f"sampler: {name!r} has no setting {unknown[0]!r}, it has: {', '.join(allowed)}"
    try:
        if name == "unordered" and "keep" in settings:
            _check_probability(settings["keep"])
        if name == "late" and "whole" in settings:
            _check_probability(settings["whole"], "whole")
        if name == "nested" and "decay" in settings:
            _check_decay(settings["decay"])
        if settings.get("ranges") is not None:
            _check_ranges(settings["ranges"])
    except UsageError as error:
        return f"sampler: {error}"
    return None


def _check_probability(value: Any, name: str = "keep") -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise UsageError(f"{name!r} is a probability above 0 and below 1, got {value!r}")


def _check_decay(decay: Any) -> None:
    if isinstance(decay, bool) or not isinstance(decay, int | float) or not 0 < decay <= 1:
        raise UsageError(f"'decay' is a factor above 0 and at most 1, got {decay!r}")


def _log_binomial(trials: int, successes: int, probability: float) -> float:
    # in logarithms, since the probability of one extreme count is below what a double can hold
    ways = math.lgamma(trials + 1) - math.lgamma(successes + 1) - math.lgamma(trials - successes + 1)
    return ways + successes * math.log(probability) + (trials - successes) * math.log1p(-probability)


def _check_ranges(ranges: Any) -> None:
    pairs = list(ranges) if isinstance(ranges, Sequence) and not isinstance(ranges, str) else [None]
    for pair in pairs:
        if not (isinstance(pair, Sequence) and len(pair) == 2 and all(type(depth) is int for depth in pair)):
            raise UsageError(
                f"'ranges' holds the least and the greatest depth of each stage, such as [[3, 3], [3, 4]]; "
                f"got {ranges!r}"
            )
        if not 0 <= pair[0] <= pair[1]:
            raise UsageError(
                f"'ranges' holds depths from 0 on, the least of each stage before the greatest; got {list(pair)} in "
                f"{ranges!r}"
            )


def _of_uniform_depth(
    space: SubnetSpace, generator: torch.Generator, kept: Kept, ranges: Ranges | None = None
) -> Subnet:
    space = _restricted(space, ranges).keeping(kept)
    return space.at([_integer(low, high, generator) for low, high in space.ranges])


def _restricted(space: SubnetSpace, ranges: Ranges | None) -> SubnetSpace:
    return space if ranges is None else space.restrict(ranges)


def _middle_stages(space: SubnetSpace) -> list[tuple[int, int]]:
    last = len(space.ranges) - 1
    return [
        (high, high) if stage in (0, last) and last > 1 else (max(low, (high + 1) // 2), high)
        for stage, (low, high) in enumerate(space.ranges)
    ]


def _integer(low: int, high: int, generator: torch.Generator) -> int:
    return int(torch.randint(low, high + 1, (), generator=generator))
