"""The order in which subnets run on one batch, so that each shares as much as it can with the one before.

That is the order of their first differing blocks: a depth-first walk of the tree of their prefixes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from stimulative.residual.finding.wiring import Decision, Place, Wiring

Stages = tuple[tuple[int, ...], ...]
"""The blocks of a subnet that run, per stage."""

_REMEMBERED = 1_000


def order_of(wiring: Wiring, subnets: Sequence[Stages]) -> Order:
    """The order of subnets, remembered for the next batch."""
    known, key = wiring.observed.orders, tuple(subnets)
    if key not in known:
        if len(known) >= _REMEMBERED:
            known.clear()
        known[key] = Order(wiring, key)
    return known[key]


@dataclass(frozen=True)
class Turn:
    """What is to be done at which place in one pass; places by their names.

    Args:
        decisions: Which block runs at each place.
        differs: Where the next pass runs something else; None behind the last one.
        departs: Where this pass leaves the one before it.
        departures: Where later passes leave this one.
        cuts: The numbers of the places of both.
        exchanged: Where another block runs than the place's own, or none.
    """

    decisions: dict[str, Decision]
    differs: frozenset[str] | None
    departs: frozenset[str]
    departures: frozenset[str]
    cuts: frozenset[int]
    exchanged: frozenset[str]

    @cached_property
    def special(self) -> frozenset[str]:
        """Where more is to be done than to run a block and to remember what it returns."""
        return self.exchanged | self.departs | self.departures | (self.differs or frozenset())


class Order:
    """In which order subnets run, and where they part.

    Args:
        wiring: Of the model.
        subnets: The blocks that run, per stage, of each subnet.

    Attributes:
        positions: The numbers of the subnets in the order in which they run.
        passes: Which block runs at each place, in each pass.
        names: The names of the places.
    """

    def __init__(self, wiring: Wiring, subnets: Sequence[Stages]) -> None:
        decisions = [wiring.decisions(stages) for stages in subnets]
        self.positions = sorted(range(len(subnets)), key=lambda i: _depth_first(wiring.places, decisions[i]))
        self.passes = [decisions[i] for i in self.positions]
        self.names = [place.name for place in wiring.places]
        self._own = [place.index for place in wiring.places]
        self._turns: dict[int, Turn] = {}
        self._shared = [_common(a, b) for a, b in pairwise(self.passes)]

    def following(self, number: int) -> tuple[Decision, ...] | None:
        """What runs in the pass behind one; None behind the last."""
        return self.passes[number + 1] if number + 1 < len(self.passes) else None

    def turn(self, number: int) -> Turn:
        """What is to be done in a pass."""
        if number not in self._turns:
            self._turns[number] = self._turn(number)
        return self._turns[number]

    def _turn(self, number: int) -> Turn:
        here, later = self._departure(number), self._departures(number)
        decisions = dict(zip(self.names, self.passes[number], strict=True))
        return Turn(
            decisions=decisions,
            differs=self._differs(number),
            departs=frozenset(self.names[at] for at in here),
            departures=frozenset(self.names[at] for at in later),
            cuts=frozenset([*here, *later]),
            exchanged=frozenset(
                name for (name, block), own in zip(decisions.items(), self._own, strict=True) if block != own
            ),
        )

    def _differs(self, number: int) -> frozenset[str] | None:
        following = self.following(number)
        if following is None:
            return None
        return frozenset(n for n, a, b in zip(self.names, self.passes[number], following, strict=True) if a != b)

    def _departure(self, number: int) -> list[int]:
        """The place, if any, at which a pass leaves the one before it."""
        return [at for at in self._shared[max(number - 1, 0) : number] if at < len(self.names)]

    def _departures(self, number: int) -> list[int]:
        """The places at which later passes leave this one."""
        return [at for at in _running_minima(self._shared[number:]) if at < len(self.names)]

    def is_over(self, at: int, number: int) -> bool:
        """Whether no pass behind one goes on from what runs before a place."""
        return number >= len(self._shared) or at > self._shared[number]


def _depth_first(places: Sequence[Place], decisions: Sequence[Decision]) -> tuple[tuple[int, int], ...]:
    """Sorts a block at its own place before another one, and any block before none."""
    return tuple(
        (2, 0) if block is None else (int(block != place.index), block)
        for place, block in zip(places, decisions, strict=True)
    )


def _common(first: Sequence[Decision], second: Sequence[Decision]) -> int:
    for at, (a, b) in enumerate(zip(first, second, strict=True)):
        if a != b:
            return at
    return len(first)


def _running_minima(numbers: Sequence[int]) -> Iterator[int]:
    least: int | None = None
    for number in numbers:
        if least is None or number < least:
            least = number
            yield number
