"""Tables, and numbers in words, as commands print them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stimulative.tasks import Measure, TaskName


def measure_of(task: TaskName) -> Measure:
    """What nets of a task are compared by."""
    from stimulative.tasks import MEASURES

    return MEASURES[task]


def kind_of(space: str | None) -> str:
    """Of which space subnets are, to stand before the word; nothing for the first blocks."""
    return "" if space == "ordered" else f"{(space or '').partition(':')[0]} "


def in_words(perplexity: float | None) -> str:
    """A perplexity, to stand behind an accuracy of text; nothing for images."""
    return "" if perplexity is None else f" (perplexity {perplexity:.2f})"


def print_table(table: Any) -> None:
    """Print a table of rich; as wide as it is where nobody watches, since a file has no width to keep to."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, console.measure(table, options=console.options.update(width=500)).maximum)
    console.print(table)
