"""Methods with settings of their own, each in one word: ``stimulative:every=2:subnets_per_step=2``.

A method of the user's own is ``package.module:Class``, and ``package.module:Class:key=value`` with settings.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from stimulative.config import Recipe, load_recipe
from stimulative.errors import UsageError
from stimulative.extension import is_own
from stimulative.methods import METHODS
from stimulative.studies.planning import check_methods

ALL = "all"
_LONGEST = 100
"""A name of a directory is cut after so many letters; file systems take 255 bytes."""


@dataclass(frozen=True)
class Variant:
    """A method, with settings.

    Args:
        method: The method's name.
        settings: Keys and values as on a command line, such as ``("sampler.name", "interstage")``.
    """

    method: str
    settings: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return ":".join([self.method, *(f"{key}={value}" for key, value in self.settings)])

    @property
    def directory(self) -> str:
        """A name for files; the same for the same variant, whatever else is compared."""
        return directory_name(str(self))

    def recipe(self, recipe: Recipe) -> Recipe:
        """A recipe with this way of training.

        What the recipe says about its own method holds for that method alone: another one has its defaults, also for
        settings that happen to have the same name in both.

        Raises:
            UsageError: If the method has no such setting, or not such a value.
        """
        settings = (("name", self.method), *self.settings)
        try:
            return load_recipe(recipe, [f"--method.{key}={value}" for key, value in settings])
        except UsageError as error:
            raise UsageError(f"{str(self)!r} of {error}") from error


def directory_name(variant: str) -> str:
    """A name for files: a method, with settings or without, as it is where that is plain."""
    text = variant.replace(":", "-")
    safe = re.sub(r"[^A-Za-z0-9_.+=-]+", "_", text)[:_LONGEST]
    return safe if safe == text else f"{safe}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def variants(methods: str | Sequence[str]) -> list[Variant]:
    """Read methods.

    Args:
        methods: Methods, each ``NAME`` or ``NAME:key=value[:key=value]`` with values as in YAML, or ``all`` for every
            method of this library with its defaults; NAME is also ``package.module:Class``, for one of your own. A text
            of several has commas between them. Commas and colons inside of brackets and quotes belong to a value, as
            does the colon of a sampler or an objective ``package.module:name``.

    Raises:
        UsageError: If there is none, one is unknown, cannot be read or is there twice.
    """
    texts = [part for part in _split(methods, ",") if part] if isinstance(methods, str) else list(methods)
    found = [one for text in texts for one in (map(Variant, METHODS) if text.strip() == ALL else [_variant(text)])]
    check_methods([variant.method for variant in found], once=False)
    twice = [str(variant) for number, variant in enumerate(found) if variant in found[:number]]
    if twice:
        raise UsageError(f"each method may be named once, got {', '.join(map(str, found))}")
    return found


def recipes_of(recipe: Recipe, found: Sequence[Variant]) -> dict[Variant, Recipe]:
    """The recipe of each variant.

    Raises:
        UsageError: If one cannot be, or two are the same.
    """
    recipes: dict[Variant, Recipe] = {}
    for variant in found:
        one = variant.recipe(recipe)
        for other, its in recipes.items():
            if its == one:
                raise UsageError(f"{str(variant)!r} and {str(other)!r} train the same way by this recipe; name one")
        recipes[variant] = one
    return recipes


def _variant(text: str) -> Variant:
    method, *parts = _split(text, ":")
    if parts and method not in METHODS and is_own(f"{method}:{parts[0]}"):
        method = f"{method}:{parts.pop(0)}"
    settings: dict[str, str] = {}
    for part in parts:
        last = next(reversed(settings), None)
        if last is not None and "=" not in part and is_own(f"{settings[last]}:{part}"):
            settings[last] += f":{part}"  # a sampler or an objective of one's own
            continue
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not key or not equals:
            raise UsageError(f"a method with settings is NAME:key=value[:key=value], got {part!r} in {text!r}")
        if key == "name":
            raise UsageError(f"the method's name stands in front of its settings, got {part!r} in {text!r}")
        if key in settings:
            raise UsageError(f"each setting may be given once, got {key} twice in {text!r}")
        settings[key] = value
    return Variant(method, tuple(settings.items()))


def _split(text: str, separator: str) -> list[str]:
    """The parts of a text between separators that are not inside of brackets or quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        else:
            depth += (letter in "[{") - (letter in "]}")
        if letter == separator and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    if depth or quote:
        raise UsageError(f"a bracket or a quote is not closed in {text!r}")
    return [part.strip() for part in parts]
