"""Whether methods differ: differences by seed, their spread, and what can be said with so few of them.

Runs of two methods with the same seed start from the same weights (of the parts that both have) and see the images in
the same order, so their accuracies are compared seed by seed: what a seed does to both drops out of the difference. Of
``n`` differences with mean ``d`` and sample standard deviation ``s`` the interval is Student's,

    d ± t(97.5 %, n - 1) * s / sqrt(n),

which holds 95 % of the time if differences between seeds are normally distributed. With two seeds t is 12.7, with three
4.3, with five 2.8. Intervals are of one difference each and not widened for the number of them that somebody looks at.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from stimulative.tasks import MEASURES, Measure

LEVEL = 0.95
"""How often the interval holds."""
_NO_SPREAD = 1e-9
"""Differences that are closer than this are the same, up to the rounding of numbers."""


@dataclass(frozen=True)
class Difference:
    """What one method has more than another, seed by seed.

    Args:
        values: The differences by seed, of the seeds that both have.
        left_out: The other seeds.
    """

    values: Mapping[int, float]
    left_out: tuple[int, ...] = ()

    @property
    def n(self) -> int:
        """The number of differences."""
        return len(self.values)

    @property
    def mean(self) -> float | None:
        """Their mean; None without any."""
        return statistics.fmean(self.values.values()) if self.values else None

    @property
    def std(self) -> float | None:
        """Their sample standard deviation; None for less than two."""
        return statistics.stdev(self.values.values()) if self.n > 1 else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The interval of the mean; None for less than two differences, or where all are the same."""
        if self.mean is None or self.std is None or self.std < _NO_SPREAD:
            return None
        from scipy.stats import t

        half = float(t.ppf((1 + LEVEL) / 2, self.n - 1)) * self.std / math.sqrt(self.n)
        return self.mean - half, self.mean + half

    @property
    def distinguishable(self) -> bool | None:
        """Whether the interval leaves out 0; None where there is no interval."""
        return None if self.interval is None else not self.interval[0] <= 0 <= self.interval[1]

    def sentence(self, measure: Measure = MEASURES["images"]) -> str:
        """All of this in words.

        Args:
            measure: What the methods are compared by; accuracies differ by points.
        """
        unit, digits = measure.difference, measure.digits
        if self.mean is None:
            said = "no seed that both have finished, so no difference"
        elif self.std is None:
            said = f"{_signed(self.mean, digits)}{unit} with one seed, which says nothing about spread"
        elif self.interval is None:
            few = "too few to show a spread: no interval"
            said = f"{_signed(self.mean, digits)}{unit} with each of {self.n} seeds, {few}"
        else:
            low, high = self.interval
            verdict = "distinguishable" if self.distinguishable else "not distinguishable"
            said = (
                f"{_signed(self.mean, digits)} ± {self.std:.{digits}f}{unit} over {self.n} seeds, "
                f"{100 * LEVEL:.0f} % interval {_signed(low, digits)} to {_signed(high, digits)}: "
                f"{verdict} from 0 with these seeds"
            )
        return said + _without(self.left_out)


def difference(of: Mapping[int, float], reference: Mapping[int, float], seeds: Iterable[int] = ()) -> Difference:
    """What one method has more than another.

    Args:
        of: The method's accuracies, by seed.
        reference: Those of the other method.
        seeds: All seeds that should have been there.

    Returns:
        The differences by seed; seeds that one of them lacks are left out and named.
    """
    known = sorted({*of, *reference, *seeds})
    both = [seed for seed in known if seed in of and seed in reference]
    return Difference({seed: of[seed] - reference[seed] for seed in both}, tuple(s for s in known if s not in both))


def _without(seeds: tuple[int, ...]) -> str:
    if not seeds:
        return ""
    named = ", ".join(map(str, seeds))
    return f" ({len(seeds)} left out, which one of the two lacks: {'seed' if len(seeds) == 1 else 'seeds'} {named})"


def _signed(value: float, digits: int) -> str:
    return f"{round(value, digits) + 0.0:+.{digits}f}"  # a zero has no minus
