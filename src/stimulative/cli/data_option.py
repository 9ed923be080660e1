"""To try a recipe: ``--data NAME``, on other images, or texts, than its own, and ``--max-steps N``, in a few steps."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stimulative.errors import UsageError

# What a recipe says about its own data set, and what is said instead about any other one.
_ABOUT_ITSELF = {"arguments": "{}", "path": "null", "mean": "null", "std": "null"}
_ABOUT_SIZE = {"classes": "null", "images": "null", "image_size": "null", "evaluation_image_size": "null"}


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add ``--data`` to a command that takes a recipe and has ``TAKES_SETTINGS = True``."""
    parser.add_argument(
        "--data",
        metavar="NAME",
        help="train on these images instead of the recipe's: digits, cifar10, cifar100, folder:PATH, wds:PATTERN, or "
        "fake (made up, of the same size and in as many classes; to try a recipe without its data); a language model "
        "on these texts: pydoc or text:PATH; a sentence encoder on sentences:PATH; or your own, package.module:name",
    )


def add_max_steps(parser: argparse.ArgumentParser) -> None:
    """Add ``--max-steps`` to a command that takes a recipe and has ``TAKES_SETTINGS = True``."""
    parser.add_argument(
        "--max-steps", metavar="N", help="stop after N steps, as --schedule.max_steps does; to try a recipe"
    )


def max_steps_settings(steps: str | None) -> list[str]:
    """The settings that ``--max-steps`` stands for, as words of a command line."""
    return [] if steps is None else ["--schedule.max_steps", steps]


def data_settings(recipe: str | Path, name: str | None, rest: Sequence[str] = ()) -> list[str]:
    """The settings that put other images in the place of a recipe's own.

    What the recipe says about its own images (where they are, how they are normalised, and, but for ``fake``, how many
    classes there are and their size) is dropped, and so is what is not for the new ones: of augmentations what small
    images do not have, for texts everything about images, and the reverse. ``fake`` has the classes and the size of the
    images that it stands for, where these are known.

    Args:
        recipe: Shipped recipe or path of a YAML file. Whether it can be used is judged where it is loaded.
        name: The data set, as ``--data`` names it; None for the recipe's own.
        rest: The settings of the command line.

    Returns:
        Words of a command line, to be put before ``rest``: what is said there counts.

    Raises:
        UsageError: If the settings of the command line name a data set, too, or made-up images are to stand for texts.
    """
    if name is None:
        return []
    from stimulative.data import FAKE, DataSettings, foreign_to

    if any(word.partition("=")[0] == "--data.name" for word in rest):
        raise UsageError("got both --data and --data.name, which say the same; give one of them")
    own = _said(recipe).get("data.name")
    own_is_text = isinstance(own, str) and DataSettings(own).is_text
    if own_is_text and name == FAKE:
        raise UsageError(
            f"--data fake: made-up images cannot stand for the texts of {own}; --data pydoc needs no files of its own"
        )
    instead = {key: json.dumps(default) for key, default in foreign_to(name).items()} | _ABOUT_ITSELF
    instead |= _stand_in(recipe) if name == FAKE else _ABOUT_SIZE
    words = ["--data.name", name]
    for key, value in instead.items():
        words += [f"--data.{key}", value]
    return words


def directory_word(name: str) -> str:
    """A data set's name as a part of a directory's name."""
    return re.sub(r"[^\w.]+", "-", name).strip("-")


def _stand_in(recipe: str | Path) -> dict[str, str]:
    """Number of classes and size of the images that a recipe is for, as far as it leaves them to its data set."""
    from stimulative.data import FAKE, FOLDER_SIZE, NATIVE_CLASSES, NATIVE_SIZE, DataSettings

    said = _said(recipe)
    own = said.get("data.name")
    found = {}
    if said.get("data.classes") is None and own in NATIVE_CLASSES:
        found["classes"] = str(NATIVE_CLASSES[own])
    known = own != FAKE and not (isinstance(own, str) and DataSettings(own).is_own)
    if said.get("data.image_size") is None and known:
        found["image_size"] = str(NATIVE_SIZE.get(own, FOLDER_SIZE) if isinstance(own, str) else FOLDER_SIZE)
    return found


def _said(recipe: str | Path) -> dict[str, Any]:
    """What a recipe says, by dotted key; nothing where it cannot be read, which is judged where it is loaded."""
    from stimulative.config import read_file

    return {key: given.value for key, given in (read_file(recipe, []) or {}).items()}
