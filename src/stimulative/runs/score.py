"""How good a net is on a data set."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Self

from stimulative.records import Record, RecordError, absent
from stimulative.tasks import KEYS, Measurement

_QUALITY, _MEASURE, _MORE = "quality", "measure", "more"


class Scored(Record):
    """Base of records that say in ``measure`` what their quality is: in a file it is called by that.

    What is called ``quality`` or ``main_quality`` here is ``top1`` or ``main_top1`` there, of segmentation ``miou`` or
    ``main_miou``; see ``stimulative.tasks.MEASURES``.
    """

    def to_mapping(self) -> dict[str, Any]:
        """As it stands in the file."""
        mapping = super().to_mapping()
        measure = mapping.pop(_MEASURE)
        return {key.replace(_QUALITY, measure): value for key, value in mapping.items()}

    @classmethod
    def from_mapping(cls, mapping: Any) -> Self:
        """Read a record, whatever its quality is called."""
        return super().from_mapping(cls.named(mapping))

    @classmethod
    def named(cls, mapping: Any) -> Any:
        """A mapping of a file in which the quality is called so, and the measure stands beside it."""
        if not isinstance(mapping, Mapping):
            return mapping
        names = [one.name for one in fields(cls) if _QUALITY in one.name]
        there = [key for key in KEYS if any(name.replace(_QUALITY, key) in mapping for name in names)]
        measure = there[0] if there else KEYS[0]
        own = {name.replace(_QUALITY, measure): name for name in names}
        for key, name in own.items():
            if key not in mapping and _default_of(cls, name) is MISSING:
                raise RecordError(f"{key!r} is missing")
        return {**{own.get(key, key): value for key, value in mapping.items()}, _MEASURE: measure}


def _default_of(kind: Any, name: str) -> Any:
    return next(one.default for one in fields(kind) if one.name == name)


@dataclass(frozen=True)
class Score(Scored):
    """How good a net is on a data set.

    Args:
        quality: What nets of the task are compared by, the greater the better; of classes the share of images, or of
            tokens, whose most likely class is the right one, in percent.
        loss: Mean loss of the task; of classes cross-entropy in nats, where a temperature was fitted that of the logits
            divided by it.
        perplexity: Of text, ``exp(loss)``: as many tokens, all equally likely, would be as hard to choose from. None
            for everything else.
        more: Further scores by name.
        measure: What the quality is, as files call it.
    """

    quality: float
    loss: float
    perplexity: float | None = absent()
    more: Mapping[str, float] = field(default_factory=dict)
    measure: str = "top1"

    @classmethod
    def of(cls, measured: Measurement, measure: str) -> Score:
        """What was measured, and what its quality is called."""
        perplexity = perplexity_of(measured.loss) if measured.of_sequences else None
        return Score(measured.quality, measured.loss, perplexity, measured.more, measure)

    def main_parts(self) -> dict[str, Any]:
        """The quality, what it is, the loss and the perplexity, by their names."""
        return {name: getattr(self, name) for name in (_QUALITY, "loss", "perplexity", _MEASURE)}

    def to_mapping(self) -> dict[str, Any]:
        """As it stands in the file, further scores beside the others."""
        mapping = super().to_mapping()
        more = mapping.pop(_MORE)
        return {**mapping, **more}

    @classmethod
    def named(cls, mapping: Any) -> Any:
        """A mapping of a file with the quality called so, and further scores apart."""
        known = super().named(mapping)
        if not isinstance(known, Mapping):
            return known
        own = {one.name for one in fields(cls)}
        numbers = {key: value for key, value in known.items() if isinstance(value, int | float)}
        more = {key: value for key, value in numbers.items() if key not in own}
        return {**{key: value for key, value in known.items() if key in own}, _MORE: more}


@dataclass(frozen=True)
class MainScore(Score):
    """How good a main net is.

    Args:
        temperature: What its logits were divided by for the loss, where one was fitted.
        by_class: A score of each class by its name, in percent: F1, average precision or IoU; those that do not occur
            are left out.
    """

    temperature: float | None = absent()
    by_class: Mapping[str, float] | None = absent()


def perplexity_of(loss: float) -> float:
    """``exp(loss)``, finite whatever the loss is."""
    return math.exp(min(loss, 700.0))
