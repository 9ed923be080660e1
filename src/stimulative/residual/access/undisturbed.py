"""Calls that change a model for a while and put it back, whatever interrupts them.

Python raises what a signal's handler raises (Ctrl-C, an alarm) in the main thread, between any two instructions: also
between a change and the ``try`` that would undo it, and in a ``finally`` that is undoing it. No order of statements
there is safe. So the work is done in another thread, where no signal arrives; the main thread waits. What interrupts
the main thread stops the work at its next step, everything is put back, and only then the interrupt goes on to the
caller.

The other thread computes as the caller does: modes of gradients, inference and autocast, the default device, CUDA's
device and stream, and context variables are those of the caller. Where the caller has modes of other kinds, which count
in its own thread only (a FLOP counter, fake tensors, ``torch.func``), and in threads other than the main one, the call
is made as it is.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar, copy_context
from typing import Any, ParamSpec, TypeVar

import torch
from torch._C._functorch import peek_interpreter_stack
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

Given = ParamSpec("Given")
Found = TypeVar("Found")

_stopping: ContextVar[threading.Event | None] = ContextVar("whether the caller was interrupted", default=None)


class _Stopped(BaseException):
    """The caller was interrupted; no ``except Exception`` on the way takes it for a fault of the model."""


def undisturbed(function: Callable[Given, Found]) -> Callable[Given, Found]:
    """A function that puts a model back as it was, whatever interrupts the caller."""

    @functools.wraps(function)
    def call(*args: Given.args, **kwargs: Given.kwargs) -> Found:
        return _elsewhere(lambda: function(*args, **kwargs), ends_early=True)

    return call


def uncut(function: Callable[Given, Found]) -> Callable[Given, Found]:
    """A function that changes a model for good, all of it or nothing: what interrupts the caller waits for its end."""

    @functools.wraps(function)
    def call(*args: Given.args, **kwargs: Given.kwargs) -> Found:
        return _elsewhere(lambda: function(*args, **kwargs), ends_early=False)

    return call


def _elsewhere(function: Callable[[], Found], *, ends_early: bool) -> Found:
    if threading.current_thread() is not threading.main_thread() or _has_modes_of_its_own():
        return function()
    return _Call(function, ends_early).result()


def step() -> None:
    """A point at which an interrupted call can end: between two changes of a model, or within one."""
    event = _stopping.get()
    if event is not None and event.is_set():
        raise _Stopped


class _Call:
    """One call in a thread of its own."""

    def __init__(self, function: Callable[[], Any], ends_early: bool) -> None:
        self.function, self.ends_early = function, ends_early
        self.go, self.stop, self.done = threading.Event(), threading.Event(), threading.Event()
        self.value: Any = None
        self.error: BaseException | None = None
        self.context = copy_context()
        self.state = _State()
        self.thread = threading.Thread(target=self._run, name="stimulative", daemon=True)

    def result(self) -> Any:
        try:
            self.thread.start()
            self.go.set()  # nothing is changed before this
            self.done.wait()
        except BaseException:
            self.stop.set()
            self._wait()
            raise
        if self.error is not None:
            error, self.error = self.error, None  # not in a circle with its traceback
            raise error
        return self.value

    def _wait(self) -> None:
        """Wait until the model is as it was; a further interrupt changes nothing about that."""
        self.go.set()
        while self.thread.ident is not None and not self.done.is_set():
            try:
                self.done.wait()
            except BaseException:
                continue

    def _run(self) -> None:
        self.go.wait()
        try:
            if not self.stop.is_set():
                self.value = self.context.run(self._call)
        except BaseException as error:
            self.error = error
        finally:
            self.done.set()

    def _call(self) -> Any:
        _stopping.set(self.stop if self.ends_early else None)
        with self.state.entered():
            return self.function()


class _State:
    """What PyTorch keeps for each thread, as it is in the caller's."""

    def __init__(self) -> None:
        self.gradients, self.inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        kinds = ["cpu"] if found is None or found.type == "cpu" else ["cpu", found.type]
        self.autocast = [(kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in kinds]
        self.caches = torch.is_autocast_cache_enabled()
        self.device = torch.get_default_device() if _get_current_function_mode_stack() else None
        self.stream = torch.cuda.current_stream() if torch.cuda.is_available() and torch.cuda.is_initialized() else None

    @contextmanager
    def entered(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(self.inference))
            stack.enter_context(torch.set_grad_enabled(self.gradients))
            for kind, enabled, dtype in self.autocast:
                if enabled:
                    stack.enter_context(torch.autocast(kind, dtype=dtype, cache_enabled=self.caches))
            if self.device is not None:
                stack.enter_context(self.device)
            if self.stream is not None:
                stack.enter_context(torch.cuda.stream(self.stream))
            yield


def _has_modes_of_its_own() -> bool:
    others = [mode for mode in _get_current_function_mode_stack() if not isinstance(mode, DeviceContext)]
    return bool(others or _get_current_dispatch_mode_stack() or peek_interpreter_stack())
