"""Calls that change a model for a while and put it back, whatever interrupts them.

Python raises what a signal's handler raises (Ctrl-C, an alarm) in the main thread, between any two instructions: also
between a change and the ``try`` that would undo it, and in a ``finally`` that is undoing it. No order of statements
there is safe. So the work is done in another thread, where no signal arrives; the main thread waits. What interrupts
the main thread stops the work at its next step, everything is put back, and only then the interrupt goes on to the
caller.

The other thread computes as the caller does: modes of gradients, inference and autocast, the default device, CUDA's
device and stream, and context variables are those of the caller. Where the caller has modes of other kinds, which count
in its own thread only (a FLOP counter, fake tensors, ``torch.func``), in threads other than the main one, and while a
module is imported, the call is made as it is. What belongs to one thread in other ways (a lock that the caller holds
and the model or its batches take again, a connection of sqlite) does not go along.
"""

from __future__ import annotations

import functools
import sys
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

_caller: ContextVar[int | None] = ContextVar("the thread that made a call", default=None)
_stopping: ContextVar[threading.Event | None] = ContextVar("whether the caller was interrupted", default=None)


_MOMENT = 0.1  # seconds


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
    elsewhere = threading.current_thread() is not threading.main_thread()
    if elsewhere or _has_modes_of_its_own() or _is_importing():
        return function()
    return _Call(function, ends_early).result()


def calling_thread() -> int:
    """The thread that does what is done here: that of the caller, where the work is done in another one."""
    return _caller.get() or threading.get_ident()


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
        self.context, self.caller = copy_context(), threading.get_ident()
        self.state = _State()
        self.thread = threading.Thread(target=self._run, name="stimulative", daemon=True)

    def result(self) -> Any:
        try:
            try:
                self.thread.start()
            except RuntimeError:  # the interpreter is ending
                return self.function()
            self.go.set()  # nothing is changed before this
            while not self.done.wait(_MOMENT):  # on Windows a wait without an end cannot be interrupted
                pass
        except BaseException:
            self._end()
            raise
        if self.error is not None:
            error, self.error = self.error, None  # not in a circle with its traceback
            raise error
        return self.value

    def _end(self) -> None:
        """Wait until the model is as it was; further interrupts wait, too."""
        while not (self.stop.is_set() and self.go.is_set() and (self.thread.ident is None or self.done.is_set())):
            try:
                self.stop.set()
                self.go.set()
                self.done.wait(_MOMENT)
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
        _caller.set(self.caller)
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


def _is_importing() -> bool:
    """Whether the caller is a module that is being imported, whose lock another thread would wait for."""
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _has_modes_of_its_own() -> bool:
    others = [mode for mode in _get_current_function_mode_stack() if not isinstance(mode, DeviceContext)]
    return bool(others or _get_current_dispatch_mode_stack() or peek_interpreter_stack())
