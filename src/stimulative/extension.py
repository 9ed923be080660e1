"""Things of the user's own by name: ``package.module:name``, for models, methods, data sets, samplers and objectives.

Importing a module runs its code. Modules are also looked for in the current directory.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from stimulative.errors import UsageError
from stimulative.naming import did_you_mean


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
        UsageError: If the name has not the form, the module cannot be imported, or has nothing of that name that can
            be called.
    """
    module, _, attribute = name.partition(":")
    if not is_own(name):
        raise UsageError(f"unknown {kind} {name!r}; a {kind} of your own is written 'package.module:{thing}'")
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
        raise UsageError(f"module {module!r} has no {attribute!r} for {kind} {name!r}{near}") from error
    if not callable(found):
        raise UsageError(f"{name!r} is no {thing}: it must be {what}; got {type(found).__name__} {found!r}")
    return found


def seeing_here(make: Callable[..., Any]) -> Callable[..., Any]:
    """Lets imports inside a function see the current directory as those of its module did."""

    def call(*positional: Any, **arguments: Any) -> Any:
        with current_directory_importable():
            return make(*positional, **arguments)

    # The signature only: the name and attributes of a class do not belong on a function.
    return functools.update_wrapper(call, make, assigned=(), updated=())


@contextlib.contextmanager
def current_directory_importable() -> Iterator[None]:
    """Imports find modules of the current directory, for a while."""
    here = os.getcwd()
    importlib.invalidate_caches()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(here)
