"""A model from the user's own code: ``package.module:factory``."""

import contextlib
import functools
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from stimulative.errors import UsageError
from stimulative.models.factory import Factory, accepted_keywords
from stimulative.models.suggestion import did_you_mean
from stimulative.models.transformers import Task


def find_own(name: str, task: Task = "images") -> Factory:
    """Imports the module, also from the current directory, and finds the factory in it.

    The factory (a function or a class) is called with ``num_classes`` and ``in_chans`` if its signature takes
    them, by name or as ``**kwargs``, and with the user's arguments. For text it is called with the size of the
    vocabulary as ``vocab_size`` if its signature names it, else as ``num_classes``. Importing runs the module's code.

    Raises:
        UsageError: The name has not the form, the module cannot be imported, or has no such factory.
    """
    module_name, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), *attribute.split(".")]):
        raise UsageError(f"unknown model {name!r}; a model of your own is written 'package.module:factory'")
    make = _attribute(_imported(module_name, name), attribute, name)
    accepted = accepted_keywords(make)

    def taken(keyword: str) -> str | None:
        return keyword if accepted is None or keyword in accepted else None

    if task == "text":
        named = accepted is not None and "vocab_size" in accepted
        return Factory(name, _seeing_here(make), "vocab_size" if named else taken("num_classes"), None)
    return Factory(name, _seeing_here(make), taken("num_classes"), taken("in_chans"))


def _imported(module_name: str, name: str) -> object:
    try:
        with _current_directory_importable():
            return importlib.import_module(module_name)
    except (ImportError, SyntaxError) as error:
        hint = ""
        if module_name.endswith(".py"):
            hint = f"; write it without '.py': {name.replace('.py:', ':', 1)!r}"
        elif isinstance(error, ModuleNotFoundError) and error.name == module_name.split(".")[0]:
            hint = f"; looked in the installed packages and in {os.getcwd()}"
        raise UsageError(
            f"cannot import {module_name!r} for model {name!r}: {type(error).__name__}: {error}{hint}"
        ) from error


def _attribute(module: object, attribute: str, name: str) -> Callable[..., Any]:
    try:
        make = functools.reduce(getattr, attribute.split("."), module)
    except AttributeError as error:
        callables = [known for known, value in vars(module).items() if callable(value)]
        nearest = did_you_mean(attribute, callables)
        raise UsageError(
            f"module {name.partition(':')[0]!r} has no {attribute!r} for model {name!r}{nearest}"
        ) from error
    if not callable(make):
        raise UsageError(
            f"{name!r} is no factory: it must be a function or class that returns a torch.nn.Module; "
            f"got {type(make).__name__} {make!r}"
        )
    return make


def _seeing_here(make: Callable[..., Any]) -> Callable[..., Any]:
    """Lets imports inside the factory see the current directory as those of its module did."""

    def call(**arguments: Any) -> Any:
        with _current_directory_importable():
            return make(**arguments)

    # The signature only: the name and attributes of a class do not belong on a function.
    return functools.update_wrapper(call, make, assigned=(), updated=())


@contextlib.contextmanager
def _current_directory_importable() -> Iterator[None]:
    here = os.getcwd()
    importlib.invalidate_caches()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(here)
