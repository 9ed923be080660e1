"""argparse with examples and, where a command takes a recipe, its settings ``--section.key VALUE``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from stimulative.errors import UsageError


class Parser(argparse.ArgumentParser):
    """A parser whose help ends in examples and whose errors are ``UsageError``s.

    Args:
        examples: Text with examples, shown at the end of the help.
        settings: Whether to list the settings of a recipe in the help.
    """

    def __init__(self, *args: Any, examples: str = "", settings: bool = False, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        kwargs["allow_abbrev"] = False
        super().__init__(*args, epilog=examples, **kwargs)
        self.settings = settings

    @property
    def arguments(self) -> tuple[argparse.Action, ...]:
        """What it takes; argparse has no public name for that."""
        return tuple(self._actions)

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print and exit with."""
        raise UsageError(f"{message}; see {self.prog} --help")

    def format_help(self) -> str:
        """The help, with the settings of a recipe where the command takes them."""
        text = super().format_help()
        return f"{text}\n{_settings()}" if self.settings else text


def without_settings(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words of a command line without ``--section.key VALUE``, and those words.

    argparse does not know these options, and would take their values for positional arguments such as RUN.
    """
    others, settings = [], []
    for position, word in enumerate(words):
        value = position and not word.startswith("--") and _is_setting(words[position - 1])
        value = value and "=" not in words[position - 1]
        (settings if value or _is_setting(word) else others).append(word)
    return others, settings


def _is_setting(word: str) -> bool:
    return word.startswith("--") and "." in word.partition("=")[0]


def _settings() -> str:
    from stimulative.config import settings_help

    lines = ["settings of a recipe (--section.key VALUE sets one over it):"]
    for setting in settings_help():
        lines.append(f"  --{setting.key} ({setting.type}, default {setting.default})")
        lines.append(f"        {' '.join(setting.help.split())}")
    return "\n".join(lines) + "\n"
