"""What things are called: accuracies of images, and of the tokens of texts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Words:
    """The names of one kind of data.

    Args:
        accuracy: What accuracy is called.
        axis: The title of its axis.
        samples: What is counted.
        recalibrated: What a caption says of the statistics of subnets; language models have none.
    """

    accuracy: str
    axis: str
    samples: str
    recalibrated: str


IMAGES = Words("top-1 accuracy", "top-1 (%)", "images", ", statistics of {of} recalibrated")
TEXT = Words("next-token accuracy", "next-token accuracy (%)", "sequences", "")


def words_of(rows: Iterable[Mapping[str, Any]]) -> Words:
    """What rows of a table or scores are called: those of texts have perplexities."""
    return TEXT if any("perplexity" in key for row in rows for key in row) else IMAGES
