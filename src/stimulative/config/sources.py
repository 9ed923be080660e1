"""Where a recipe's values come from: shipped files, files by path, mappings and the command line.

Each value keeps its origin, so that a message can say which line or word to change.
"""

from __future__ import annotations

import importlib.resources
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from stimulative.config import yamlfile
from stimulative.config.schema import SECTIONS
from stimulative.errors import UsageError
from stimulative.files import regular, user_path
from stimulative.naming import did_you_mean

Overrides = Mapping[str, Any] | Sequence[str]


class Given(NamedTuple):
    """A value that somebody gave, where, and for a command line the text that stood there."""

    value: Any
    origin: str
    text: str | None = None

    @property
    def shown(self) -> str:
        """The value as messages show it."""
        if self.text is not None or isinstance(self.value, str):
            shown = repr(self.value if self.text is None else self.text)
        else:
            shown = yamlfile.dump_line(self.value)
        return shown if len(shown) <= 80 else f"{shown[:77]}..."


_OF_THE_SHELL = re.compile(r"/dev/stdin|(/dev|/proc/(self|\d+))/fd/\d+")
"""Pipes that a shell makes of what its user says, which may be read."""

Pairs = Iterator[tuple[str, Given]]


def shipped() -> list[str]:
    """The names of the recipes that come with the package."""
    folder = importlib.resources.files("stimulative.recipes")
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def read_file(recipe: str | Path, problems: list[str]) -> dict[str, Given] | None:
    """The values of a shipped recipe or a file by dotted key; None when it cannot be read, which is a problem."""
    try:
        name, text = _find(recipe)
        content, lines = yamlfile.parse_yaml(text)
    except yamlfile.YamlError as error:
        problems.append(f"not valid YAML; {error}")
        return None
    except UsageError as error:
        problems.append(str(error))
        return None
    if not isinstance(content, Mapping):
        problems.append(f"got {content!r:.60}, allowed: a mapping with the sections {', '.join(SECTIONS)}")
        return None
    origins = {key: f"{name}, line {line}" for key, line in lines.items()}
    return dict(_flatten(content, origins, name, problems))


def read_mapping(recipe: Mapping[Any, Any], problems: list[str]) -> dict[str, Given]:
    """The values of nested mappings by dotted key."""
    return dict(_flatten(recipe, {}, "recipe", problems))


def read_overrides(overrides: Overrides | None, problems: list[str]) -> Pairs:
    """The values set over a recipe's by dotted key, in their order; whole sections are taken apart."""
    if isinstance(overrides, Mapping):
        pairs: Iterable[tuple[str, Given]] = (
            (str(key), Given(_unpath(value), "override")) for key, value in overrides.items()
        )
    else:
        pairs = _command_line([overrides] if isinstance(overrides, str) else list(overrides or ()), problems)
    for key, given in pairs:
        if key in SECTIONS:
            yield from _flatten({key: given.value}, {}, given.origin, problems)
        else:
            yield key, given


def _find(recipe: str | Path) -> tuple[str, str]:
    """A recipe's name in messages, and its text."""
    names = shipped()
    if recipe in names:
        file = importlib.resources.files("stimulative.recipes") / f"{recipe}.yaml"
        return f"{recipe}.yaml", file.read_text(encoding="utf-8")
    path = user_path(recipe)
    if path.is_dir():
        inside = " or the recipe.yaml in it" if (path / "recipe.yaml").is_file() else ""
        raise UsageError(f"this is a folder; give a YAML file{inside}, or a shipped recipe: {', '.join(names)}")
    try:
        if not _OF_THE_SHELL.fullmatch(str(path)):
            regular(path, most=4 * yamlfile.MOST_TEXT)
        return path.name, path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = did_you_mean(path.stem if path.suffix in (".yaml", ".yml") else path.name, names)
        hint = near or ", or the path of a YAML file"
        raise UsageError(f"no such file, nor a shipped recipe; shipped: {', '.join(names)}{hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the file cannot be read: {error}") from error


def _flatten(mapping: Mapping[Any, Any], origins: Mapping[str, str], elsewhere: str, problems: list[str]) -> Pairs:
    for section, content in mapping.items():
        section = str(section)
        origin = origins.get(section, elsewhere)
        if section not in SECTIONS:
            entries: Iterable[tuple[str, Any]] = [(section, content)]
        elif content is None or isinstance(content, Mapping):
            entries = [(f"{section}.{name}", value) for name, value in (content or {}).items()]
        else:
            example = f", such as {section}: {{name: {content}}}" if isinstance(content, str) else ""
            problems.append(
                f"{section}: got {Given(content, '').shown} ({origin}), allowed: a mapping of its settings{example}"
            )
            continue
        for key, value in entries:
            origin = origins.get(key, elsewhere)
            inner = key.removeprefix(f"{section}.")
            if "." in inner:
                problems.append(f"got the dotted name {inner!r} ({origin}), write it as mappings inside each other")
            else:
                yield key, Given(_unpath(value), origin)


def _command_line(words: list[str], problems: list[str]) -> Pairs:
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        key, equals, text = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not key:
            problems.append(f"got {word!r} (command line), allowed: --section.setting VALUE")
            continue
        if not equals:
            if position == len(words) or words[position].startswith("--"):
                problems.append(f"{key}: got no value (command line), write --{key} VALUE")
                continue
            text = words[position]
            position += 1
        yield key.replace("-", "_"), Given(_value(text), "command line", text)


def _value(text: str) -> Any:
    try:
        return yamlfile.parse_yaml(text)[0]
    except yamlfile.YamlError:
        return text


def _unpath(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, PurePath) else value
