"""How good a net is on a data set."""

from __future__ import annotations

import math
from dataclasses import dataclass

from stimulative.records import Record, absent


@dataclass(frozen=True)
class Score(Record):
    """How good a net is on a data set.

    Args:
        top1: Share of images whose most likely class is the right one, in percent; of text, of tokens.
        loss: Mean cross-entropy, in nats; where a temperature was fitted, that of the logits divided by it.
        perplexity: Of text, ``exp(loss)``: as many tokens, all equally likely, would be as hard to choose from. None
            for images.
    """

    top1: float
    loss: float
    perplexity: float | None = absent()


@dataclass(frozen=True)
class MainScore(Score):
    """How good a main net is.

    Args:
        temperature: What its logits were divided by for the loss, where one was fitted.
    """

    temperature: float | None = absent()


def perplexity_of(loss: float) -> float:
    """``exp(loss)``, finite whatever the loss is."""
    return math.exp(min(loss, 700.0))
