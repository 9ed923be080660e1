"""Evaluation mode for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """A module in evaluation mode; each module inside gets its own mode back, also after an error."""
    modes = {inner: inner.training for inner in module.modules()}
    try:
        module.eval()
        yield
    finally:
        for inner, training in modes.items():
            inner.training = training
