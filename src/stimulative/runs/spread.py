"""How numbers spread: their mean, standard deviation, and ends."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from stimulative.records import Record, absent


@dataclass(frozen=True)
class Spread(Record):
    """Mean, standard deviation (the population's), least and greatest of some numbers."""

    mean: float
    std: float
    min: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of one number or more."""
        return Spread(statistics.fmean(values), statistics.pstdev(values), min(values), max(values))


@dataclass(frozen=True)
class FamilySpread(Spread):
    """The spread of a family's top-1 accuracies, in percent; of text also that of its perplexities."""

    perplexity: Spread | None = absent()


@dataclass(frozen=True)
class SizeSpread(Record):
    """The spread among the subnets that have as many blocks.

    Args:
        blocks: How many.
        subnets: How many subnets have as many.
        mean: Mean top-1 accuracy in percent.
        std: Its standard deviation, the population's.
        min: The least.
        max: The greatest.
        perplexity: The spread of the perplexities, of text.
    """

    blocks: int
    subnets: int
    mean: float
    std: float
    min: float
    max: float
    perplexity: Spread | None = absent()


@dataclass(frozen=True)
class DepthSpread(Record):
    """The spread among the subnets that are as deep in one stage.

    Args:
        stage: The number of the stage.
        name: Its name.
        depth: How many of its blocks run.
        subnets: How many subnets are as deep in it.
        mean: Mean top-1 accuracy in percent.
        std: Its standard deviation, the population's.
        min: The least.
        max: The greatest.
        perplexity: The spread of the perplexities, of text.
    """

    stage: int
    name: str
    depth: int
    subnets: int
    mean: float
    std: float
    min: float
    max: float
    perplexity: Spread | None = absent()
