"""Work on batches, divided: each process takes every so many-th batch, and what came of all is put in their order.

Sums are then added up batch by batch as one process does it, so that they come out equal to the last bit, however many
processes there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any

_NONE = object()


@dataclass(frozen=True)
class Division:
    """How work is divided.

    Args:
        rank: The number of this process.
        size: How many there are.
        gather: Gives what all processes have, by rank; for all of them to call.
    """

    rank: int
    size: int
    gather: Callable[[Any], list[Any]]

    def mine(self, number: int) -> bool:
        """Whether a batch is this process's."""
        return number % self.size == self.rank

    def in_order(self, own: list[Any]) -> list[Any]:
        """What has come of all batches, in their order, of what has come of this process's."""
        rows = zip_longest(*self.gather(own), fillvalue=_NONE)
        return [part for part in chain.from_iterable(rows) if part is not _NONE]


_division: ContextVar[Division | None] = ContextVar("division", default=None)


def division() -> Division | None:
    """How work on batches is divided now; None where this process does all of it."""
    return _division.get()


@contextmanager
def divided(division: Division | None) -> Iterator[None]:
    """Divide work on batches, for a while; all processes have to come here, and do the same."""
    token = _division.set(division)
    try:
        yield
    finally:
        _division.reset(token)
