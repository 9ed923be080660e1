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

_running: weakref.WeakKeyDictionary[nn.Module, tuple[threading.Lock, list[int]]] = weakref.WeakKeyDictionary()
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
def exclusive(model: nn.Module) -> Iterator[None]:
    """One pass of a model at a time: threads wait for each other, a pass within a pass is refused."""
    with _registry:
        lock, owner = _running.setdefault(model, (threading.Lock(), []))
    if lock.locked() and owner == [threading.get_ident()]:
        raise UsageError(
            f"{type(model).__name__} is already running a subnet in this thread: a model cannot run a subnet of itself "
            "from within its own forward or from within only(...). Run the subnets one after the other"
        )
    with lock:
        owner[:] = [threading.get_ident()]
        try:
            yield
        finally:
            owner.clear()
