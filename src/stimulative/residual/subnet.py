"""A sub-network as a value, and the space that such values are drawn from."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import index

from stimulative.errors import UsageError

Kept = str
"""Which blocks a stage keeps at a depth: one of ``KEPT``, or what ``by_importance`` gives; see ``SubnetSpace``."""

KEPT: tuple[Kept, ...] = ("ordered", "suffix", "every_other", "unordered")

RANKED = "ranked"
"""What an order of importance is called; as a rule it is followed by a colon and the order."""

Order = tuple[tuple[int, ...], ...]
"""For each stage all of its blocks, the most important first."""

_WORDS: dict[str, str] = {
    "ordered": "first",
    "suffix": "last",
    "every_other": "evenly spread",
    RANKED: "most important",
}
_MOST = 10_000
"""Characters of a subnet's text, blocks that it may name, and the greatest depth: far beyond any network."""
_STAGE = re.compile(r"[0-9]+|\[(?:[0-9]+(?:\.[0-9]+)*)?\]")
_TEXT = re.compile(rf"(?:{_STAGE.pattern})(?:-(?:{_STAGE.pattern}))*")


@dataclass(frozen=True, order=True)
class Subnet:
    """Which blocks of a residual network run, stage by stage, in the order in which they run.

    ``Subnet(((0, 1), (0, 1, 2)))`` runs the first two blocks of stage 0 and the first three of stage 1. Deleting
    blocks leaves numbers out, reordering them changes their order; it is the same kind of value.

    Args:
        stages: For each stage, the indices of its blocks that run.
    """

    stages: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        try:
            stages = tuple(tuple(index(block) for block in stage) for stage in self.stages)
        except TypeError as error:
            raise UsageError(f"a subnet has the indices of blocks of each stage, got {self.stages!r:.80}") from error
        if not stages:
            raise UsageError("a subnet needs at least one stage, got none")
        for number, stage in enumerate(stages):
            if any(block < 0 for block in stage) or len(set(stage)) != len(stage):
                raise UsageError(
                    f"stage {number} of a subnet names each block at most once, by an index from 0 on; got {stage}"
                )
        object.__setattr__(self, "stages", stages)

    @classmethod
    def from_depths(cls, depths: Sequence[int]) -> Subnet:
        """The subnet that keeps the first ``depths[i]`` blocks of stage ``i`` (the paper's ordered subnets).

        Raises:
            UsageError: If a depth is not a whole number from 0 on.
        """
        for number, depth in enumerate(depths):
            if not hasattr(depth, "__index__") or not 0 <= index(depth) <= _MOST:
                raise UsageError(
                    f"the depth of stage {number} is a whole number from 0 to {_MOST:,}, got {depth!r:.80}"
                )
        return cls(tuple(tuple(range(depth)) for depth in depths))

    @classmethod
    def parse(cls, text: str) -> Subnet:
        """Read what ``str`` writes.

        Args:
            text: Stages joined by ``-``. A number keeps that many first blocks; ``[0.2]`` names the blocks.

        Raises:
            UsageError: If the text is not of that form.
        """
        text = text.strip()
        if len(text) > _MOST:
            raise UsageError(f"cannot read the subnet {text[:40]!r}…: it has more than {_MOST:,} characters")
        if not _TEXT.fullmatch(text):
            raise UsageError(
                f"cannot read the subnet {text!r}: write one depth a stage, such as '2-3-5-2', "
                "or name the blocks that run, such as '2-[0.2]-5-2'"
            )
        _check_size(text)
        stages = []
        for part in _STAGE.findall(text):
            if part.startswith("["):
                stages.append(tuple(int(block) for block in part[1:-1].split(".") if block))
            else:
                stages.append(tuple(range(int(part))))
        return cls(tuple(stages))

    @classmethod
    def from_json(cls, text: str) -> Subnet:
        """Read what ``to_json`` writes.

        Raises:
            UsageError: If the text is not of that form.
        """
        try:
            return cls(tuple(tuple(index(block) for block in stage) for stage in json.loads(text)))
        except (TypeError, ValueError, RecursionError) as error:
            raise UsageError(
                f"cannot read the subnet {text[:200]!r}: it is a list of block indices for each stage, such as "
                "[[0, 1], [0, 1, 2]]"
            ) from error

    def to_json(self) -> str:
        """The block indices of each stage as JSON, such as ``[[0, 1], [0, 1, 2]]``."""
        return json.dumps(self.stages)

    @property
    def depths(self) -> tuple[int, ...]:
        """The number of blocks that run in each stage."""
        return tuple(len(stage) for stage in self.stages)

    @property
    def blocks(self) -> int:
        """The number of blocks that run."""
        return sum(self.depths)

    @property
    def ordered(self) -> bool:
        """Whether every stage keeps just its first blocks, in their order."""
        return all(stage == tuple(range(len(stage))) for stage in self.stages)

    def __str__(self) -> str:
        return "-".join(
            str(len(stage)) if stage == tuple(range(len(stage))) else f"[{'.'.join(map(str, stage))}]"
            for stage in self.stages
        )


def as_order(order: str | Sequence[Sequence[int]]) -> Order:
    """An order of importance: for each stage all of its blocks, the most important first.

    Args:
        order: A list for each stage, such as ``[[0, 2, 1], [0, 1]]``, or its text as of a subnet, ``"[0.2.1]-2"``.

    Raises:
        UsageError: If a stage lacks a block, or names one twice.
    """
    try:
        stages = (Subnet.parse(order) if isinstance(order, str) else Subnet(tuple(map(tuple, order)))).stages
    except (TypeError, UsageError) as error:
        raise UsageError(
            "an order of importance has for each stage all of its blocks, the most important first, such as "
            f"[[0, 2, 1], [0, 1]] or '[0.2.1]-2'; got {order!r:.80}"
        ) from error
    for number, stage in enumerate(stages):
        if sorted(stage) != list(range(len(stage))):
            raise UsageError(
                f"an order of importance has all blocks of each stage; stage {number} of {order!r:.80} has "
                f"{len(stage)}, and these are not 0..{len(stage) - 1}"
            )
    return stages


def by_importance(order: str | Sequence[Sequence[int]]) -> Kept:
    """The rule by which stages keep their most important blocks, such as ``"ranked:[0.2.1]-2"``.

    Args:
        order: For each stage all of its blocks, the most important first; see ``as_order``.

    Raises:
        UsageError: If it is no such order.
    """
    return f"{RANKED}:{Subnet(as_order(order))}"


def check_kept(kept: object) -> None:
    """Make sure that this says which blocks a stage keeps at a depth.

    Raises:
        UsageError: If there is no such rule.
    """
    name, colon, order = kept.partition(":") if isinstance(kept, str) else ("", "", "")
    if name == RANKED and colon:
        as_order(order)
    elif kept not in KEPT:
        raise UsageError(
            f"which blocks a stage keeps is one of {', '.join(KEPT)}; got {kept!r}. By an order of importance it is "
            f"{RANKED}: and for each stage all blocks, the most important first, such as {RANKED}:[0.2.1]-2"
        )


def _as_ranges(ranges: Sequence[Sequence[int]]) -> tuple[tuple[int, int], ...]:
    """Depth ranges as pairs of numbers."""
    try:
        return tuple((index(low), index(high)) for low, high in ranges)
    except (TypeError, ValueError) as error:
        raise UsageError(
            "depth ranges are a pair of whole numbers for each stage, the least depth and the greatest; got "
            f"{ranges!r:.80}"
        ) from error


def _check_size(text: str) -> None:
    """Make sure that a subnet's text does not ask for more blocks than any network has."""
    numbers = re.findall("[0-9]+", text)
    if any(len(number) > 5 or int(number) > _MOST for number in numbers) or _blocks_in(text) > _MOST:
        raise UsageError(
            f"the subnet {text[:40]!r} is none: it has more than {_MOST:,} blocks, or one with a greater number"
        )


def _blocks_in(text: str) -> int:
    return sum(part.count(".") + 1 if part.startswith("[") else int(part) for part in _STAGE.findall(text))


@dataclass(frozen=True)
class SubnetSpace:
    """A set of subnets: for each stage, how many blocks may run, and which.

    Which blocks a stage of ``n`` keeps at depth ``d`` is one rule for all stages:

    - ``ordered``: the first ``d`` (the paper's ordered sampling);
    - ``suffix``: the last ``d``; where the first block is fixed, that one and the last ``d - 1``;
    - ``every_other``: ``d`` spread evenly, those at ``floor(i * n / d)`` for ``i`` below ``d``. Block 0 is always among
      them, and at half the depth it is every other block;
    - ``unordered``: any ``d``, a fixed first block among them. The only rule with more than one subnet at a depth;
    - ``ranked:`` and an order, such as ``ranked:[0.2.1]-2``: the ``d`` most important, by an order that has for each
      stage all of its blocks, the most important first (see ``by_importance``). A fixed first block stands first.

    Blocks run in their own order, so each rule holds for every network. A fixed first block is all that limits them: no
    subnet is without it. Dense blocks have none, any of their layers can be left out.

    Iterating is lazy and in lexicographic order; ``len`` counts without enumerating (``count`` also where the number
    does not fit into a machine word).

    Args:
        lengths: The number of blocks of each stage of the main net.
        fixed: Whether the first block of each stage always runs because it changes stride or width.
        ranges: The least and the greatest depth of each stage, both included; by default from 1 to all.
        kept: Which blocks a stage keeps at a given depth.

    Raises:
        UsageError: If the ranges do not fit the stages, or there is no such rule.
    """

    lengths: tuple[int, ...]
    fixed: tuple[bool, ...]
    ranges: tuple[tuple[int, int], ...] = ()
    kept: Kept = "ordered"

    def __post_init__(self) -> None:
        check_kept(self.kept)
        ranges = _as_ranges(self.ranges) or tuple((1, length) for length in self.lengths)
        if len(ranges) != len(self.lengths):
            raise UsageError(f"{len(self.lengths)} stages need as many depth ranges, got {len(ranges)}: {ranges}")
        for number, ((low, high), length, fixed) in enumerate(zip(ranges, self.lengths, self.fixed, strict=True)):
            if not int(fixed) <= low <= high <= length:
                raise UsageError(
                    f"the depth range {low}..{high} of stage {number} does not fit: "
                    f"it has to lie within {int(fixed)}..{length}"
                )
        object.__setattr__(self, "ranges", ranges)
        self._check_order()

    @cached_property
    def order(self) -> Order | None:
        """For each stage all of its blocks, the most important first; None where their places decide."""
        name, _, order = self.kept.partition(":")
        return as_order(order) if name == RANKED else None

    def _check_order(self) -> None:
        """Make sure that an order of importance is one of these stages."""
        order = self.order or ()
        if self.order is not None and tuple(map(len, order)) != tuple(self.lengths):
            raise UsageError(
                f"the order of importance {Subnet(order)} is one of stages of {list(map(len, order))} blocks, and the "
                f"network has stages of {list(self.lengths)}; give an order of this network"
            )
        for number, (stage, fixed) in enumerate(zip(order, self.fixed, strict=False)):
            if fixed and stage[0] != 0:
                raise UsageError(
                    f"the order of importance of stage {number} begins with block {stage[0]}: block 0 changes stride "
                    f"or width and always runs, so that it stands first; got {list(stage)}"
                )

    def restrict(self, ranges: Sequence[Sequence[int]]) -> SubnetSpace:
        """The same space with other depth ranges, one ``(least, greatest)`` a stage."""
        return replace(self, ranges=_as_ranges(ranges))

    def keeping(self, kept: Kept) -> SubnetSpace:
        """The space of the same depths in which stages keep other blocks.

        Raises:
            UsageError: If there is no such rule.
        """
        return replace(self, kept=kept)

    def unordered(self) -> SubnetSpace:
        """The space in which a stage may keep any of its blocks, not only the first ones."""
        return self.keeping("unordered")

    @property
    def ordered(self) -> bool:
        """Whether every stage keeps its first blocks."""
        return self.kept == "ordered"

    def at(self, depths: Sequence[int]) -> Subnet:
        """The subnet of these depths; of an unordered space the one that keeps first blocks.

        Args:
            depths: The number of blocks of each stage.

        Raises:
            UsageError: If they are not within the ranges.
        """
        if len(depths) != len(self.lengths):
            raise UsageError(f"{len(self.lengths)} stages need as many depths, got {len(depths)}: {tuple(depths)}")
        for number, (depth, (low, high)) in enumerate(zip(depths, self.ranges, strict=True)):
            if not low <= depth <= high:
                raise UsageError(f"the depth of stage {number} is within {low}..{high}, got {depth}. Allowed: {self}")
        return Subnet(tuple(self._at(stage, depth) for stage, depth in enumerate(depths)))

    @property
    def full(self) -> Subnet:
        """The largest subnet: the main net, unless the ranges exclude it."""
        return self.at([high for _, high in self.ranges])

    @property
    def smallest(self) -> Subnet:
        """The subnet with the fewest blocks; of an unordered space the one that keeps first blocks."""
        return self.at([low for low, _ in self.ranges])

    @property
    def count(self) -> int:
        """The number of subnets, exactly."""
        return math.prod(
            sum(self._choices(stage, depth) for depth in range(low, high + 1))
            for stage, (low, high) in enumerate(self.ranges)
        )

    def __len__(self) -> int:
        return self.count

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[Subnet]:
        return (Subnet(stages) for stages in self._stages_from(0))

    def __contains__(self, subnet: object) -> bool:
        return isinstance(subnet, Subnet) and self._misfit(subnet) is None

    def check(self, subnet: Subnet) -> Subnet:
        """Return the subnet if it belongs to this space.

        Raises:
            UsageError: If it does not, with what is allowed.
        """
        misfit = self._misfit(subnet)
        if misfit is not None:
            raise UsageError(f"subnet {subnet} is not one of this network's: {misfit}. Allowed: {self}")
        return subnet

    def __str__(self) -> str:
        depths = ", ".join(f"{low}..{high}" for low, high in self.ranges)
        which = "any" if self.kept == "unordered" else f"the {self._words}"
        behind = ", behind its fixed first one where it has one" if self.kept == "suffix" and any(self.fixed) else ""
        return f"depths ({depths}), {which} blocks of each stage{behind}"

    @property
    def _words(self) -> str:
        return _WORDS[self.kept.partition(":")[0]]

    def _misfit(self, subnet: Subnet) -> str | None:
        if len(subnet.stages) != len(self.lengths):
            return f"it has {len(subnet.stages)} stages, the network {len(self.lengths)}"
        for number, (stage, length, fixed, (low, high)) in enumerate(
            zip(subnet.stages, self.lengths, self.fixed, self.ranges, strict=True)
        ):
            if not low <= len(stage) <= high:
                return f"stage {number} has depth {len(stage)}, outside {low}..{high}"
            if any(block >= length for block in stage):
                return f"stage {number} has blocks 0..{length - 1}, not {max(stage)}"
            if self.kept != "unordered" and stage != (rule := self._at(number, len(stage))):
                return (
                    f"stage {number} keeps {list(stage)}, which are not its {self._words} blocks in order: at "
                    f"depth {len(stage)} those are {list(rule)}"
                )
            if list(stage) != sorted(stage):
                return f"stage {number} runs its blocks in the order {list(stage)}"
            if fixed and 0 not in stage:
                return f"stage {number} lacks its first block, which changes stride or width"
        return None

    def _at(self, stage: int, depth: int) -> tuple[int, ...]:
        """What a stage keeps at a depth; of an unordered space the first blocks."""
        length, first = self.lengths[stage], int(self.fixed[stage])
        if self.kept == "suffix":
            return (*range(first), *range(length - depth + first, length))
        if self.kept == "every_other":
            return tuple(number * length // depth for number in range(depth))
        if self.order is not None:
            return tuple(sorted(self.order[stage][:depth]))
        return tuple(range(depth))

    def _choices(self, stage: int, depth: int) -> int:
        if self.kept != "unordered":
            return 1
        fixed = int(self.fixed[stage])
        return math.comb(self.lengths[stage] - fixed, depth - fixed)

    def _stages_from(self, stage: int) -> Iterator[tuple[tuple[int, ...], ...]]:
        if stage == len(self.lengths):
            yield ()
            return
        for kept in self._kept(stage):
            for rest in self._stages_from(stage + 1):
                yield (kept, *rest)

    def _kept(self, stage: int) -> Iterator[tuple[int, ...]]:
        low, high = self.ranges[stage]
        if self.kept != "unordered":
            return iter(sorted(self._at(stage, depth) for depth in range(low, high + 1)))
        start = (0,) if self.fixed[stage] else ()
        return self._extensions(start, self.lengths[stage], low, high)

    def _extensions(self, kept: tuple[int, ...], length: int, low: int, high: int) -> Iterator[tuple[int, ...]]:
        after = kept[-1] + 1 if kept else 0
        if len(kept) + length - after < low:
            return
        if len(kept) >= low:
            yield kept
        if len(kept) < high:
            for block in range(after, length):
                yield from self._extensions((*kept, block), length, low, high)
