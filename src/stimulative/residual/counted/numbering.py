"""Gives layers other numbers, for a while or for good."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from stimulative.residual.finding.numbers import Number, holds, renumbered

Undo = list[tuple[dict[str, Any], dict[str, Any]]]
"""Attributes of objects, and what they were."""

_MISSING = object()


def number_layer(layer: nn.Module, numbers: Iterable[Number], position: int) -> Undo:
    """Give a layer the number of another position.

    Args:
        layer: The layer.
        numbers: Where it keeps its number.
        position: The other position, counted from 0.
    """
    undo: Undo = []
    for number in numbers:
        module = layer.get_submodule(number.inside)
        if not holds(module, number):
            continue
        own = module._buffers if number.attribute in module._buffers else vars(module)
        new = renumbered(module, number, number.start + position)
        undo.append((own, {number.attribute: own.get(number.attribute, _MISSING)}))  # or its class has it
        own[number.attribute] = new
    return undo


def restore(undo: Undo) -> None:
    """Give attributes back what they were, the last one first."""
    for own, values in reversed(undo):
        own.update(values)
        for key in [key for key, value in values.items() if value is _MISSING]:
            del own[key]
    undo.clear()
