"""Samplers: each draws a subnet from a space, given a random generator.

``ordered`` is the paper's rule (Fig. 4 of arXiv 2210.04153): a depth drawn uniformly for each stage, and the first
blocks kept. ``interstage`` is ST++'s (arXiv 2305.02507): only some stages vary. ``unordered`` keeps each block with
a probability, the rule that the paper compares ordered sampling with, and that of LayerDrop (arXiv 1909.11556).
``suffix`` and ``every_other`` draw depths as ``ordered`` does and keep the last blocks, or blocks that are spread
evenly. ``late`` is ours: it favours subnets that share a long prefix with the main net. ``nested`` favours large
subnets, as group knowledge training does (arXiv 2308.13772). ``halves`` draws the smaller net of Adaptive Depth
Networks (arXiv 2312.16392). ``ranked`` keeps the blocks that matter most, by an order that was measured.

Which blocks are kept is the sampler's to say, whatever the space that it draws from says; the space gives the depths
and the fixed first blocks. A sampler of the user's own, ``package.module:sampler``, is a function like these.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from stimulative.errors import UsageError
from stimulative.extension import imported
from stimulative.naming import did_you_mean
from stimulative.residual.subnet import Kept, Subnet, SubnetSpace, as_order, by_importance

Sampler = Callable[[SubnetSpace, torch.Generator], Subnet]
_KEYWORD, _ANY_KEYWORD = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD
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


def ranked(
    space: SubnetSpace,
    generator: torch.Generator,
    *,
    order: str | Sequence[Sequence[int]],
    ranges: Ranges | None = None,
) -> Subnet:
    """A depth drawn uniformly from each stage's range; the most important blocks are kept.

    Args:
        space: Where to draw from.
        generator: Source of randomness, on the CPU.
        order: For each stage all of its blocks, the most important first, such as ``[[0, 2, 1], [0, 1]]`` or
            ``"[0.2.1]-2"``; a fixed first block stands first.
        ranges: Narrower (or wider) depth ranges than the space's own.
    """
    return _of_uniform_depth(space, generator, by_importance(order), ranges)


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


def interstage(
    space: SubnetSpace, generator: torch.Generator, *, ranges: Ranges | None = None, least: int | None = None
) -> Subnet:
    """Ordered sampling within narrower depth ranges.

    Args:
        space: Where to draw from.
        generator: Source of randomness, on the CPU.
        ranges: ``(least, greatest)`` depth of each stage, such as ``[[3, 3], [3, 4], [3, 6], [3, 3]]`` for
            ResNet-50. Without it the first and the last stage are whole and the others vary between half and all.
        least: In place of ``ranges``, the least depth of the stages that vary; those that have no more blocks are
            whole. 3 gives these ranges for ResNet-50.
    """
    return ordered(space.restrict(_middle_stages(space, least) if ranges is None else ranges), generator)


def halves(space: SubnetSpace, generator: torch.Generator, *, together: bool = True) -> Subnet:
    """The base net of Adaptive Depth Networks: each stage without its second half.

    A stage of ``n`` blocks keeps the first ``ceil(n / 2)``, as in the published code, where its range of depths allows
    that: 2-2-3-2 of ResNet-50, whose 2.56 billion multiplications are the 2.58 GFLOPs of the paper, which counts
    norms, too. That code trains just two nets, the whole one and this one, so nothing is drawn by chance by default.
    It divides a ViT's twelve blocks into four stages of three and skips the last of each; here a run of blocks is one
    stage, of which the second half goes.

    Args:
        space: Where to draw from.
        generator: Source of randomness, on the CPU; not used where all stages go together.
        together: Whether all stages lose their second halves. False draws for each stage by itself whether it does,
            with a probability of a half, so that all the nets between the two are trained.
    """
    bases = _half_depths(space)
    if together:
        return Subnet.from_depths(bases)
    whole = [bool(_integer(0, 1, generator)) for _ in bases]
    return Subnet.from_depths(
        [high if all_of_it else base for all_of_it, base, (_, high) in zip(whole, bases, space.ranges, strict=True)]
    )


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
    "ranked": ranked,
    "halves": halves,
}


def uniform(space: SubnetSpace, generator: torch.Generator) -> Subnet:
    """A subnet of a space, all of them equally likely, whichever blocks its stages keep."""
    return unordered(space, generator) if space.kept == "unordered" else _of_uniform_depth(space, generator, space.kept)


def resolve_sampler(sampler: str | Mapping[str, Any] | Sampler, space: SubnetSpace) -> Sampler:
    """A sampler from its name, from its name and settings (``{"name": "unordered", "keep": 0.8}``), or as it is.

    A name is one of ``SAMPLERS``, or ``package.module:sampler`` for a function of the user's own, which is called with
    a space, a generator and its settings. What that one draws is checked each time.

    Raises:
        UsageError: If there is no such sampler or setting, or if it cannot draw from the space.
    """
    if callable(sampler):
        return sampler
    problem = sampler_problem(sampler)
    if problem is not None:
        raise UsageError(problem)
    settings = {"name": sampler} if isinstance(sampler, str) else dict(sampler)
    name = settings.pop("name")
    draw = partial(_named(name), **settings)
    if name not in SAMPLERS:
        draw = partial(_drawn_by_own, name, draw)
    draw(space, torch.Generator().manual_seed(0))  # unusable settings fail here rather than in the first step
    return draw


def sampler_problem(sampler: object) -> str | None:
    """What is wrong with a sampler's name or settings, before any network is known.

    The module of a sampler of the user's own is imported for this.
    """
    if callable(sampler):
        return None
    settings = {"name": sampler} if isinstance(sampler, str) else sampler
    if not isinstance(settings, Mapping) or "name" not in settings:
        return f"sampler: got {sampler!r}, but it is a name or a mapping with 'name' and settings of that sampler"
    given = {key: value for key, value in settings.items() if key != "name"}
    name = settings["name"]
    try:
        _check_settings(name, _named(name), given)
        if name == "unordered" and "keep" in given:
            _check_probability(given["keep"])
        if name == "late" and "whole" in given:
            _check_probability(given["whole"], "whole")
        if name == "nested" and "decay" in given:
            _check_decay(given["decay"])
        if name == "ranked":
            as_order(given["order"])
        if name == "halves" and not isinstance(given.get("together", True), bool):
            raise UsageError(f"'together' is true or false, got {given['together']!r}")
        if name in SAMPLERS and given.get("ranges") is not None:
            _check_ranges(given["ranges"])
        if name == "interstage" and given.get("least") is not None:
            _check_least(given["least"], given.get("ranges"))
    except UsageError as error:
        return f"sampler: {error}"
    return None


def _named(name: Any) -> Callable[..., Subnet]:
    """The sampler of a name.

    Raises:
        UsageError: If there is none.
    """
    if isinstance(name, str) and name in SAMPLERS:
        return SAMPLERS[name]
    if isinstance(name, str) and ":" in name:
        return imported(name, "sampler", "sampler", "a function that draws a Subnet: (space, generator, **settings)")
    near = did_you_mean(str(name), SAMPLERS) or "."
    raise UsageError(
        f"there is no sampler {name!r}, known: {', '.join(SAMPLERS)}{near} A sampler of your own is written "
        "'package.module:sampler'"
    )


def _check_settings(name: str, draw: Callable[..., Subnet], given: Collection[str]) -> None:
    """Make sure that a sampler takes the settings that are given, and needs no others."""
    try:
        parameters = list(inspect.signature(draw).parameters.values())
    except (TypeError, ValueError):  # some callables written in C do not say what they take
        return
    kinds = [one.kind for one in parameters]
    if len(parameters) < 2 or any(kind in (_KEYWORD, _ANY_KEYWORD) for kind in kinds[:2]):
        raise UsageError(
            f"{name!r} is no sampler: it must take a space and a generator first, and settings behind them; it takes "
            f"{inspect.signature(draw)}"
        )
    settings = {one.name: one.default for one in parameters[2:] if one.kind is not _ANY_KEYWORD}
    has = f"it has: {', '.join(settings) or 'none'}"
    unknown = [key for key in given if key not in settings]
    if unknown and _ANY_KEYWORD not in kinds:
        raise UsageError(f"{name!r} has no setting {unknown[0]!r}, {has}")
    missing = [key for key, default in settings.items() if default is inspect.Parameter.empty and key not in given]
    if missing:
        raise UsageError(f"{name!r} needs the setting {missing[0]!r}, {has}")


def _drawn_by_own(name: str, draw: Sampler, space: SubnetSpace, generator: torch.Generator) -> Subnet:
    """What a sampler of the user's own draws, if it is a subnet of the network, which need not be of the space."""
    subnet = draw(space, generator)
    if not isinstance(subnet, Subnet):
        raise UsageError(f"the sampler {name!r} has to return a Subnet, got {type(subnet).__name__} {subnet!r:.80}")
    fits = len(subnet.stages) == len(space.lengths) and all(
        set(kept) <= set(range(length)) and (not fixed or kept[:1] == (0,))
        for kept, length, fixed in zip(subnet.stages, space.lengths, space.fixed, strict=True)
    )
    if not fits:
        depths = ", ".join(f"{int(fixed)}..{length}" for length, fixed in zip(space.lengths, space.fixed, strict=True))
        first = ", and the first block of a stage of at least 1 always runs, first" if any(space.fixed) else ""
        raise UsageError(
            f"the sampler {name!r} has drawn {subnet}, which is no subnet of this network: its stages have depths "
            f"{depths}{first}"
        )
    return subnet


def _check_probability(value: Any, name: str = "keep") -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise UsageError(f"{name!r} is a probability above 0 and below 1, got {value!r}")


def _check_decay(decay: Any) -> None:
    if isinstance(decay, bool) or not isinstance(decay, int | float) or not 0 < decay <= 1:
        raise UsageError(f"'decay' is a factor above 0 and at most 1, got {decay!r}")


def _check_least(least: Any, ranges: Any) -> None:
    if ranges is not None:
        raise UsageError(f"'least' stands in place of 'ranges'; got both, {least!r} and {ranges!r}")
    if isinstance(least, bool) or not isinstance(least, int) or least < 1:
        raise UsageError(f"'least' is a whole number of blocks from 1 on, got {least!r}")


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


def _middle_stages(space: SubnetSpace, least: int | None = None) -> list[tuple[int, int]]:
    """Depth ranges of which the first and the last stage are whole; the others have at least half of their blocks.

    Raises:
        UsageError: If another least depth is given, and no stage has more blocks.
    """
    last = len(space.ranges) - 1
    halves = _half_depths(space)
    lows = halves if least is None else [max(low, min(least, high)) for low, high in space.ranges]
    found = [
        (high, high) if stage in (0, last) and last > 1 else (low, high)
        for stage, (low, (_, high)) in enumerate(zip(lows, space.ranges, strict=True))
    ]
    if least is not None and all(low == high for low, high in found):
        middle = max(high for stage, (_, high) in enumerate(space.ranges) if stage not in (0, last) or last <= 1)
        raise UsageError(
            f"'least' of {least} leaves no stage that varies: the deepest of those that may has {middle} blocks; give "
            "a smaller number"
        )
    return found


def _half_depths(space: SubnetSpace) -> list[int]:
    """Half of the blocks of each stage, rounded up, where that is within its range."""
    return [max(low, (high + 1) // 2) for low, high in space.ranges]


def _integer(low: int, high: int, generator: torch.Generator) -> int:
    return int(torch.randint(low, high + 1, (), generator=generator))
