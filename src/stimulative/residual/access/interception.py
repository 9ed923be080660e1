"""Calls something else in place of modules, for a while."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn


def call_slot(module: nn.Module) -> str:
    """The attribute that calling a module calls: ``forward``, or what ``module.compile()`` puts before it."""
    return "forward" if module._compiled_call_impl is None else "_compiled_call_impl"


@contextmanager
def intercepted(
    modules: Mapping[str, nn.Module], calls: Mapping[str, Callable[..., Any]]
) -> Iterator[Callable[[Container[str]], None]]:
    """Call something else in place of some modules, and take every trace of it away again.

    Args:
        modules: Modules by name, those to intercept among them.
        calls: What is called instead, by the same names.

    Yields:
        A function that takes it away at once, but for modules of given names.
    """
    undo: dict[str, tuple[dict[str, Any], str, Any]] = {}

    def release(kept: Container[str] = ()) -> None:
        for name in [name for name in reversed(undo) if name not in kept]:
            own, slot, value = undo[name]
            if value is None:  # it was that of the class
                own.pop(slot, None)
            else:
                own[slot] = value
            del undo[name]

    try:
        for name, call in calls.items():
            module = modules[name]
            slot, own = call_slot(module), vars(module)
            undo[name] = own, slot, own.get(slot)
            own[slot] = call
        yield release
    finally:
        release()
