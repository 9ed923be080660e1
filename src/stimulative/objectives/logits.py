"""Logits in whatever a model returns."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from stimulative.errors import UsageError


def logits_of(output: Any) -> Tensor:
    """The logits of a model's output: the output itself, what it calls ``logits``, or its first tensor.

    Args:
        output: A tensor; an object or a mapping that has ``logits``, as models of Transformers return; or a tuple of
            which the first one are logits.

    Returns:
        Shape ``(B, ..., classes)``.

    Raises:
        UsageError: There are none.
    """
    if isinstance(output, Tensor):
        return output
    found = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if found is None and isinstance(output, tuple | list) and output:
        found = output[0]
    if isinstance(found, Tensor):
        return found
    named = f" of {', '.join(map(str, output))}" if isinstance(output, Mapping) else ""
    raise UsageError(
        f"the model returns {type(output).__name__}{named}, in which there are no logits. A model to train returns "
        "logits, alone, first in a tuple, or as `logits` (of Transformers: a model for classification or for language "
        "modelling, AutoModelFor..., not the bare AutoModel)"
    )
