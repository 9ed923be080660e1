"""Names and texts in messages: what was probably meant, lists that do not get out of hand, texts that are no orders."""

import difflib
import re
from collections.abc import Iterable, Sequence

_SHOWN = 8
_ORDERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What a terminal obeys or an encoding refuses, all but tabs and ends of lines: control characters, orders that turn
the direction of text, and halves of characters."""


def has_controls(text: str) -> bool:
    """Whether a text has control characters, such as begin an order to a terminal; no name needs them."""
    return re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", text) is not None


def printable(text: str) -> str:
    """A text in which what a terminal takes for orders is spelt out, such as the character of code 27."""
    return _ORDERS.sub(lambda match: repr(match[0])[1:-1], text)


def nearest(word: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """The known word that is most like a word; None when none is near.

    Args:
        word: What was given.
        known: What is known.
        cutoff: How alike they have to be, from 0 to 1.
    """
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return found[0] if found else None


def did_you_mean(word: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """The end of an error message: ``"; did you mean 'x'?"`` for the nearest known word, or nothing."""
    near = nearest(word, known, cutoff=cutoff)
    return "" if near is None else f"; did you mean {near!r}?"


def listed(names: Sequence[str], separator: str = ", ") -> str:
    """The first names of a list, and how many more there are."""
    shown = separator.join(printable(name[:80]) for name in names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN:,} more"
