"""What a model must not do while a subnet of it runs: run another one, or run blocks again in the backward pass."""

from __future__ import annotations

import inspect
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import torch.utils.checkpoint
from torch import nn

from stimulative.errors import UsageError
from stimulative.residual.access.undisturbed import calling_thread


class _Use:
    """Who uses a model."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.owner: int | None = None
        self.passes_within = False


_running: weakref.WeakKeyDictionary[nn.Module, _Use] = weakref.WeakKeyDictionary()
_registry = threading.Lock()


def refuse_checkpoint(name: str) -> None:
    """Raise if a block is called by activation checkpointing, which would call it again when the pass is over."""
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_filename == torch.utils.checkpoint.__file__:
            raise UsageError(
                f"the model checkpoints activations: block {name!r} is called by torch.utils.checkpoint, which runs it "
                "again during the backward pass, when it is no longer known which blocks were skipped. Call the block "
                "itself in the model's forward; to save memory, use schedule='lean'"
            )
        frame = frame.f_back


@contextmanager
def exclusive(model: nn.Module, *, passes_within: bool = False) -> Iterator[None]:
    """One use of a model at a time: threads wait for each other, a pass within a pass is refused.

    Args:
        model: The model.
        passes_within: Whether this use consists of passes, which this thread may make meanwhile.
    """
    with _registry:
        use = _running.setdefault(model, _Use())
    if use.lock.locked() and use.owner == calling_thread():
        if use.passes_within:
            yield
            return
        raise UsageError(
            f"{type(model).__name__} is already running a subnet in this thread: a model cannot run a subnet of itself "
            "from within its own forward or from within only(...). Run the subnets one after the other"
        )
    with use.lock:
        use.owner, use.passes_within = calling_thread(), passes_within
        try:
            yield
        finally:
            use.owner, use.passes_within = None, False
