"""Modes for a while: evaluation mode, and no autocast."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """A module in evaluation mode; each module inside gets its own mode back, also after an error.

    Modules that do something when their mode changes (merge their weights for evaluation, forget what they have
    computed of them) are told of both changes.
    """
    modes = {inner: inner.training for inner in module.modules()}
    try:
        module.eval()
        yield
    finally:
        for inner, training in modes.items():  # what holds others comes before them
            if inner.training != training and type(inner).train is not nn.Module.train:
                inner.train(training)
            inner.training = training


def going_backward(tensor: Tensor) -> AbstractContextManager[object]:
    """A context for a backward pass from a tensor: each operation has the format of its forward, so autocast is off."""
    device = tensor.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()
