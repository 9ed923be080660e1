"""Things of the user's own by name: ``package.module:name``, for models, methods, data sets, samplers and objectives.

Importing a module runs its code, so a name counts only where the user has given it. One that comes out of a file which
somebody else may have written is refused (``distrusting``), unless the user says that it is trusted (``trusting``).
Modules are also looked for in the current directory, after all other places.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stimulative.errors import UsageError
from stimulative.naming import did_you_mean

HOW_TO_TRUST = "allow it within stimulative.trusting()"
"""What to do where a file is trusted, for messages."""


@dataclass(frozen=True)
class _Distrust:
    source: str
    but: frozenset[str]
    allow: str


_trusting: ContextVar[bool] = ContextVar("whether the user trusts what files name", default=False)
_distrusted: ContextVar[_Distrust | None] = ContextVar("the file that names are from", default=None)


@contextlib.contextmanager
def trusting() -> Iterator[None]:
    """Let files name code of their own, for a while: ``--trust``, for files whose source you trust.

    It holds for the thread that says so.
    """
    token = _trusting.set(True)
    try:
        yield
    finally:
        _trusting.reset(token)


def is_trusting() -> bool:
    """Whether the user has said so, in this thread."""
    return _trusting.get()


@contextlib.contextmanager
def distrusting(
    source: str,
    *,
    but: frozenset[str] = frozenset(),
    allow: str = HOW_TO_TRUST,
) -> Iterator[None]:
    """Refuse names of one's own, for a while, as those of a file that somebody else may have written.

    Args:
        source: The file, for messages.
        but: Names that the user gave besides, which are fine.
        allow: How to allow them, for messages.
    """
    token = _distrusted.set(None if _trusting.get() else _Distrust(source, but, allow))
    try:
        yield
    finally:
        _distrusted.reset(token)


def distrusted() -> str | None:
    """The file whose names are refused now; None where none are."""
    found = _distrusted.get()
    return None if found is None else found.source


def how_to_trust() -> str:
    """How the user lets that file, a sentence for messages; empty where nothing is refused."""
    found = _distrusted.get()
    return "" if found is None else f"Where you trust it, {found.allow}"


def is_own(name: object) -> bool:
    """Whether a name is one of the user's own."""
    module, colon, attribute = name.partition(":") if isinstance(name, str) else ("", "", "")
    return bool(colon) and all(part.isidentifier() for part in [*module.split("."), *attribute.split(".")])


def imported(name: str, kind: str, thing: str, what: str) -> Callable[..., Any]:
    """What ``package.module:name`` names.

    Args:
        name: The name.
        kind: What it is for, for messages, such as ``model``.
        thing: What stands behind the colon, for messages, such as ``factory``.
        what: What it has to be, for messages, such as ``a function or class that returns a torch.nn.Module``.

    Raises:
        UsageError: If the name has not the form, is of a file that is not trusted, the module is of Python's standard
            library or cannot be imported, or has nothing of that name that can be called.
    """
    module, _, attribute = name.partition(":")
    if not is_own(name):
        raise UsageError(f"unknown {kind} {name!r}; a {kind} of your own is written 'package.module:{thing}'")
    _check_trusted(name, kind)
    try:
        with current_directory_importable():
            loaded = importlib.import_module(module)
    except (ImportError, SyntaxError) as error:
        hint = ""
        if module.endswith(".py"):
            hint = f"; write it without '.py': {name.replace('.py:', ':', 1)!r}"
        elif isinstance(error, ModuleNotFoundError) and error.name == module.split(".")[0]:
            hint = f"; looked in the installed packages and in {os.getcwd()}"
        raise UsageError(
            f"cannot import {module!r} for {kind} {name!r}: {type(error).__name__}: {error}{hint}"
        ) from error
    except UsageError:
        raise
    except (Exception, SystemExit) as error:  # whatever the code of the module raises
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise UsageError(
            f"cannot import {module!r} for {kind} {name!r}: {type(error).__name__}: {error} "
            f"({frame.filename}:{frame.lineno})"
        ) from error
    try:
        found = functools.reduce(getattr, attribute.split("."), loaded)
    except AttributeError as error:
        callables = [known for known, value in vars(loaded).items() if callable(value)]
        near = did_you_mean(attribute, callables, cutoff=0.5)
        raise UsageError(f"module {module!r}{_place(loaded)} has no {attribute!r} for {kind} {name!r}{near}") from error
    if not callable(found):
        raise UsageError(f"{name!r} is no {thing}: it must be {what}; got {type(found).__name__} {found!r}")
    return found


def _place(module: Any) -> str:
    """Where a module is that was not found in the current directory, for messages."""
    file = getattr(module, "__file__", None)
    return "" if file is None or Path(file).is_relative_to(Path.cwd()) else f" ({file})"


def _check_trusted(name: str, kind: str) -> None:
    """Make sure that importing what a name stands for is what the user wants.

    Raises:
        UsageError: If the name is of a file that is not trusted, or the module of the standard library, which has
            nothing that is of use here and much that does harm.
    """
    module = name.partition(":")[0]
    if module.partition(".")[0] in sys.stdlib_module_names:
        raise UsageError(f"{module!r} of {kind} {name!r} is a module of Python itself, which has no {kind}")
    found = _distrusted.get()
    if found is not None and name not in found.but:
        raise UsageError(
            f"{found.source} names {kind} {name!r}, and importing the module {module!r} would run its code. Where you "
            f"trust both, {found.allow}"
        )


def seeing_here(make: Callable[..., Any]) -> Callable[..., Any]:
    """Lets imports inside a function see the current directory as those of its module did."""

    def call(*positional: Any, **arguments: Any) -> Any:
        with current_directory_importable():
            return make(*positional, **arguments)

    # The signature only: the name and attributes of a class do not belong on a function.
    return functools.update_wrapper(call, make, assigned=(), updated=())


@contextlib.contextmanager
def current_directory_importable() -> Iterator[None]:
    """Imports find modules of the current directory, for a while, where no other place has one of that name."""
    here = os.getcwd()
    importlib.invalidate_caches()
    sys.path.append(here)
    try:
        yield
    finally:
        last = max((at for at, place in enumerate(sys.path) if place == here), default=None)
        if last is not None:  # what was imported may have changed the path
            del sys.path[last]
