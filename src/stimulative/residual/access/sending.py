"""Tensors on their way from the CPU to an accelerator, which goes on computing meanwhile."""

from __future__ import annotations

import torch
from torch import Tensor

_NEEDS_NO_COPY = "cpu", "mps", "meta"
"""Devices that share the memory of the CPU, or have none."""


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device, without waiting for what the device has still to do.

    A copy of ordinary memory waits for all that was launched before, whatever is asked of it; one of pinned memory does
    not.

    Args:
        tensor: The tensor.
        device: Where it is to be.
    """
    if tensor.device.type != "cpu" or device.type == "cpu":
        return tensor.to(device)
    if device.type not in _NEEDS_NO_COPY and not tensor.is_pinned():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
