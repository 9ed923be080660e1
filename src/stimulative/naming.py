"""Names in messages: the one that was probably meant, and lists that do not get out of hand."""

import difflib
from collections.abc import Iterable, Sequence

_SHOWN = 8


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
    # what a file says is shown, but not obeyed: its names may hold control sequences of terminals
    shown = separator.join("".join(c if c.isprintable() else "?" for c in name[:80]) for name in names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN:,} more"
