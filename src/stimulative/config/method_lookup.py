"""The method that a recipe names, of a table or of one's own, and the settings that its class takes."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from stimulative.config import yamlfile
from stimulative.config.annotations import REQUIRED, Setting, convert, plain, settings_of
from stimulative.errors import UsageError
from stimulative.extension import is_own
from stimulative.methods import Method, method_named

Methods = Mapping[str, type[Method]]
"""Training methods by name, as a recipe names them."""

# The loop gives these to a method: from other sections, or from the length of the run.
_GIVEN_BY_THE_LOOP = ("task", "label_smoothing", "total_steps", "seed")


@functools.cache
def method_settings(method: type[Method]) -> Mapping[str, Setting]:
    """The settings of a method by bare name: what its class takes by name, but for what the loop gives it.

    Defaults are as a recipe gives them: a list for a tuple where the type does not say which.

    Raises:
        UsageError: If no recipe can say a setting or its default.
    """
    network = next(iter(inspect.signature(method).parameters), "network")  # whatever it is called
    settings = settings_of(method, (network, *_GIVEN_BY_THE_LOOP))
    return {key: replace(setting, default=_as_said(key, setting)) for key, setting in settings.items()}


def _as_said(key: str, setting: Setting) -> Any:
    """A setting's default as it comes back from a recipe that says it."""
    if key == "name":
        raise UsageError("a parameter 'name' is in the way of method.name; call it something else")
    if setting.default is REQUIRED:
        return REQUIRED
    written = plain(setting.default)
    if not yamlfile.can_dump(written):
        raise UsageError(
            f"the default of {key!r} cannot be written in a recipe: got {setting.default!r}, allowed: numbers, texts, "
            "true or false, None, and lists and mappings of these"
        )
    try:
        return convert(setting.annotation, yamlfile.parse_yaml(yamlfile.dump(written))[0])
    except TypeError as error:
        raise UsageError(
            f"the default of {key!r} is not of its type: got {setting.default!r}, allowed: {error}; change one of them"
        ) from error


def usable_method(name: object, methods: Methods) -> type[Method] | None:
    """The class of a method whose settings a recipe can say.

    Args:
        name: A name of the table, or ``package.module:Class`` for one's own.
        methods: The table.

    Returns:
        None if the name is neither.

    Raises:
        UsageError: If it is one's own and cannot be imported, is no method, or has settings that no recipe can hold.
    """
    if not isinstance(name, str):
        return None
    if name in methods:
        return methods[name]
    if not is_own(name):
        return None
    method = method_named(name)
    try:
        method_settings(method)
    except UsageError as error:
        raise UsageError(f"{name!r}: {error}") from error
    except Exception as error:  # annotations are code of the user's
        raise UsageError(
            f"the settings of {name!r} cannot be read from its signature: {type(error).__name__}: {error}"
        ) from error
    return method
