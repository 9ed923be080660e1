"""What a subnet may cost, and how good it has to be."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal, get_args

from stimulative.errors import UsageError
from stimulative.records import Record
from stimulative.runs import CostName, Member

Minimised = Literal["latency", "flops", "params"]
COST_NAMES: dict[str, CostName] = {"latency": "latency_ms", "flops": "flops", "params": "parameters"}

_UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9, "t": 1e12}
_AMOUNT = re.compile(r"(\d+\.?\d*|\.\d+)(e[+-]?\d+)?([kmgbt]?)", re.IGNORECASE)


@dataclass(frozen=True)
class Limits(Record):
    """Limits that all have to hold; None where there is none.

    Args:
        max_latency_ms: Of the latency, in milliseconds.
        max_flops: Of the floating-point operations for one sample; a multiply-add counts as two.
        max_params: Of the number of parameters.
        min_top1: Of the accuracy on the validation part, in percent; of other tasks, of their measure.
        max_perplexity: Of the perplexity there, for texts.
    """

    max_latency_ms: float | None = None
    max_flops: float | None = None
    max_params: float | None = None
    min_top1: float | None = None
    max_perplexity: float | None = None

    @property
    def asks_for_quality(self) -> bool:
        """Whether a subnet has to be so good, and then as cheap as possible; otherwise as good as possible."""
        return self.min_top1 is not None or self.max_perplexity is not None

    @property
    def costs(self) -> dict[CostName, float]:
        """The limits of costs that there are, by the name of the cost."""
        limits: dict[CostName, float | None] = {
            "latency_ms": self.max_latency_ms,
            "flops": self.max_flops,
            "parameters": self.max_params,
        }
        return {name: limit for name, limit in limits.items() if limit is not None}

    def shortfall(self, member: Member) -> float:
        """How far a subnet is from being good enough, as a share of what is asked for; 0 if it is."""
        missing = [0.0]
        if self.min_top1 is not None:
            missing.append((self.min_top1 - member.score.quality) / self.min_top1)
        if self.max_perplexity is not None:
            perplexity = member.score.perplexity
            missing.append(math.inf if perplexity is None else perplexity / self.max_perplexity - 1)
        return max(missing)

    def allow(self, member: Member) -> bool:
        """Whether a subnet keeps to all limits; one whose latency has not been measured keeps to none of latency."""
        values = [(member.cost_in(name), limit) for name, limit in self.costs.items()]
        cheap = all(value is not None and value <= limit for value, limit in values)
        return cheap and self.shortfall(member) == 0


def limits_of(
    max_latency_ms: float | str | None = None,
    max_flops: float | str | None = None,
    max_params: float | str | None = None,
    min_top1: float | str | None = None,
    max_perplexity: float | str | None = None,
) -> Limits:
    """Limits from numbers, or from texts such as ``"1G"``.

    Raises:
        UsageError: If there is none, or one of them is not a number that it can be.
    """
    limits = Limits(
        max_latency_ms=_plain("max_latency_ms", "a number of milliseconds above 0", max_latency_ms),
        max_flops=_amount("max_flops", max_flops),
        max_params=_amount("max_params", max_params),
        min_top1=_plain(
            "min_top1",
            "an accuracy in percent, above 0 and at most 100",
            min_top1,
            most=100,
        ),
        max_perplexity=_plain("max_perplexity", "a number of 1 or more", max_perplexity, least=1),
    )
    if limits == Limits():
        raise UsageError(
            "no limit was given; give one or more of max_latency_ms=, max_flops=, max_params=, min_top1= and, for "
            "texts, max_perplexity="
        )
    return limits


def cost_to_minimise(limits: Limits, minimise: Minimised | None) -> CostName:
    """The cost that decides: among subnets that are good enough, or among the equally good ones within a budget.

    Args:
        limits: The limits.
        minimise: What was asked for. By default the latency if a quality is asked for, else the first of latency,
            operations and parameters that is limited.

    Raises:
        UsageError: If there is no such cost, or the budget alone decides.
    """
    if minimise is None:
        return "latency_ms" if limits.asks_for_quality else next(iter(limits.costs))
    if minimise not in get_args(Minimised):
        raise UsageError(f"minimise= is one of {', '.join(get_args(Minimised))}, got {minimise!r}")
    if not limits.asks_for_quality:
        raise UsageError(
            f"minimise={minimise!r} goes with min_top1= or max_perplexity=, which say what is good enough; within a "
            "budget alone the most accurate subnet is chosen"
        )
    return COST_NAMES[minimise]


def _amount(name: str, given: float | str | None) -> float | None:
    allowed = "a number above 0, such as 1G, 10M, 2.5k or 1e9"
    if not isinstance(given, str):
        return _plain(name, allowed, given)
    found = _AMOUNT.fullmatch(given.strip())
    if found is None:
        raise UsageError(f"{name}= is {allowed}; got {given!r}")
    number, power, unit = found.groups()
    return _plain(name, allowed, float(number + (power or "")) * _UNITS[unit.lower()])


def _plain(
    name: str, allowed: str, given: float | str | None, *, least: float = 0.0, most: float = math.inf
) -> float | None:
    if given is None:
        return None
    try:
        value = math.nan if isinstance(given, bool) else float(given)
    except (TypeError, ValueError):
        value = math.nan
    if not (math.isfinite(value) and value > 0 and least <= value <= most):
        raise UsageError(f"{name}= is {allowed}; got {given!r}")
    return value
