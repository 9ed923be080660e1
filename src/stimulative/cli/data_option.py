"""``--data NAME``: a recipe on other images, or texts, than its own."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stimulative.data import FAKE, NATIVE_CLASSES, NATIVE_SIZE, DataSettings, defaults_of_images, defaults_of_text
from stimulative.errors import UsageError

# What a recipe says about the images of its own data set, and what is said instead about those of any other.
_ABOUT_PIXELS = {"path": "null", "mean": "null", "std": "null"}
_ABOUT_SIZE = {"classes": "null", "images": "null", "image_size": "null", "evaluation_image_size": "null"}
_ABOUT_PHOTOGRAPHS = {"color_jitter": "0.0", "lighting": "0.0", "auto_augment": "null"}


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add ``--data`` to a command that takes a recipe and has ``TAKES_SETTINGS = True``."""
    parser.add_argument(
        "--data",
        metavar="NAME",
        help="train on these images instead of the recipe's: digits, cifar10, cifar100, folder:PATH, or fake (made up, "
        "of the same size and in as many classes; to try a recipe without its data); a language model on these texts: "
        "pydoc or text:PATH",
    )


def data_settings(recipe: str | Path, name: str | None, rest: Sequence[str] = ()) -> list[str]:
    """The settings that put other images in the place of a recipe's own.

    What the recipe says about its own images (where they are, how they are normalised, and, but for ``fake``, how many
    classes there are, their size, and augmentations that small images do not have) is dropped. ``fake`` has the classes
    and the size of the images that it stands for. For texts everything about images is dropped, and the reverse.

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
    if any(word.partition("=")[0] == "--data.name" for word in rest):
        raise UsageError("got both --data and --data.name, which say the same; give one of them")
    instead: dict[str, str] = dict(_ABOUT_PIXELS)
    own = _said(recipe).get("data.name")
    own_is_text = isinstance(own, str) and DataSettings(own).is_text
    if DataSettings(name).is_text:
        return _words(name, {key: json.dumps(default) for key, default in defaults_of_images().items()})
    if own_is_text and name == FAKE:
        raise UsageError(
            f"--data fake: made-up images cannot stand for the texts of {own}; --data pydoc needs no files of its own"
        )
    if own_is_text:
        instead |= {key: json.dumps(default) for key, default in defaults_of_text().items()}
    if name == FAKE:
        instead |= _stand_in(recipe)
    else:
        instead |= _ABOUT_SIZE
    if name in NATIVE_SIZE:
        instead |= _ABOUT_PHOTOGRAPHS
    return _words(name, instead)


def _words(name: str, settings: Mapping[str, str]) -> list[str]:
    words = ["--data.name", name]
    for key, value in settings.items():
        words += [f"--data.{key}", value]
    return words


def directory_word(name: str) -> str:
    """A data set's name as a part of a directory's name."""
    return re.sub(r"[^\w.]+", "-", name).strip("-")


def _stand_in(recipe: str | Path) -> dict[str, str]:
    """Number of classes and size of the images that a recipe is for, as far as it leaves them to its data set."""
    from stimulative.data import FOLDER_SIZE

    said = _said(recipe)
    own = said.get("data.name")
    found = {}
    if said.get("data.classes") is None and own in NATIVE_CLASSES:
        found["classes"] = str(NATIVE_CLASSES[own])
    if said.get("data.image_size") is None and own != FAKE:
        found["image_size"] = str(NATIVE_SIZE.get(own, FOLDER_SIZE) if isinstance(own, str) else FOLDER_SIZE)
    return found


def _said(recipe: str | Path) -> dict[str, Any]:
    """What a recipe says, by dotted key; nothing where it cannot be read, which is judged where it is loaded."""
    from stimulative.config import read_file

    return {key: given.value for key, given in (read_file(recipe, []) or {}).items()}
