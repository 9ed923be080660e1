"""Tables, and numbers in words, as commands print them."""

from __future__ import annotations

from typing import Any, Protocol


class Scored(Protocol):
    """What has a perplexity, if it is of text."""

    @property
    def perplexity(self) -> float | None:
        """The perplexity; None for images."""
        ...


def in_words(score: Scored) -> str:
    """The perplexity of a score, of text, to stand behind its accuracy; nothing for images."""
    return "" if score.perplexity is None else f" (perplexity {score.perplexity:.2f})"


def print_table(table: Any) -> None:
    """Print a table of rich; as wide as it is where nobody watches, since a file has no width to keep to."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, console.measure(table, options=console.options.update(width=500)).maximum)
    console.print(table)
