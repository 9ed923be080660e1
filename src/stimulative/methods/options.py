"""Settings that are a name, or a mapping with a name and settings of what has that name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from stimulative.errors import UsageError
from stimulative.naming import did_you_mean

Rule = tuple[Callable[[Any], bool], str]
"""What a value has to pass, and what it is in words."""


def is_number(value: object) -> bool:
    """Whether a value is a number, which true and false are none of here."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def parts_of(setting: str, given: object, forms: str) -> tuple[str, Mapping[str, Any]]:
    """The name in a setting, and the settings beside it.

    Args:
        setting: What the setting is called.
        given: Its value.
        forms: What it may be, in words.

    Raises:
        UsageError: If it is no name and no mapping with one.
    """
    if isinstance(given, str):
        return given, {}
    if isinstance(given, Mapping) and isinstance(given.get("name"), str):
        return given["name"], {key: value for key, value in given.items() if key != "name"}
    raise UsageError(f"{setting}: got {given!r}, but it is {forms}")


def name_in(given: object) -> object:
    """The name in a setting, whatever else is in there."""
    return given.get("name") if isinstance(given, Mapping) else given


def check_options(setting: str, name: str, given: Mapping[str, Any], rules: Mapping[str, Rule]) -> None:
    """Make sure that what has a name takes the settings that are given.

    Args:
        setting: What the setting is called that names it.
        name: The name.
        given: Its settings.
        rules: What its settings have to be.

    Raises:
        UsageError: If it has no such setting, or a value is impossible.
    """
    for key, value in given.items():
        if key not in rules:
            raise UsageError(
                f"{setting}: {name!r} has no setting {key!r}, it has: {', '.join(rules) or 'none'}"
                f"{did_you_mean(key, rules)}"
            )
        allowed, words = rules[key]
        if not allowed(value):
            raise UsageError(f"{setting}: {key!r} of {name!r} is {words}; got {value!r}")
