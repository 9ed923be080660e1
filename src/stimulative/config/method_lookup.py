"""The method that a recipe names, of a table or of one's own, and the settings that its class takes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

from stimulative.config import yamlfile
from stimulative.config.annotations import REQUIRED, Setting, plain, settings_of
from stimulative.errors import UsageError
from stimulative.extension import is_own
from stimulative.methods import Method, method_named

Methods = Mapping[str, type[Method]]
"""Training methods by name, as a recipe names them."""

# The loop gives these to a method: from other sections, or from the length of the run.
_GIVEN_BY_THE_LOOP = ("label_smoothing", "total_steps", "seed")


def method_settings(method: type[Method]) -> Mapping[str, Setting]:
    """The settings of a method by bare name: what its class takes by name, but for what the loop gives it."""
    network = next(iter(inspect.signature(method).parameters), "network")  # whatever it is called
    return settings_of(method, (network, *_GIVEN_BY_THE_LOOP))


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
        settings = method_settings(method)
    except Exception as error:  # annotations are code of the user's
        raise UsageError(
            f"the settings of {name!r} cannot be read from its signature: {type(error).__name__}: {error}"
        ) from error
    for key, setting in settings.items():
        if setting.default is not REQUIRED and not yamlfile.can_dump(plain(setting.default)):
            raise UsageError(
                f"the default of {key!r} of {name!r} cannot be written in a recipe: got {setting.default!r}, allowed: "
                "numbers, texts, true or false, None, and lists and mappings of these"
            )
    return method
