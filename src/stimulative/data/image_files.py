"""Files of images: which of a folder's files are some, and reading one as it is meant to be seen.

What would become white, black or of one colour without a word is converted as it is meant, or refused by name.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from stimulative.errors import UsageError
from stimulative.files import regular

_ORIENTATION = 0x0112
_SLIMMEST = 200
"""How many times one side may be the other: images are resized by the shorter one, and would not fit in memory."""
_BACKGROUND = (255, 255, 255)
HIDDEN, NO_IMAGE = "hidden", "not named as images are"
AGAIN, NOWHERE, NO_FILE = "the same file again, by a link", "a link to nothing", "a pipe or a device"
"""Why files are left out."""


def images_below(folder: Path, left_out: Counter[str]) -> dict[str, str]:
    """The images in a folder and in the folders below it.

    Links are followed, to each folder and each file once.

    Args:
        folder: The folder.
        left_out: By reason, how many files were left out; added to.

    Returns:
        The files, folder by folder in the order of their names, and where each really is.

    Raises:
        UsageError: If a folder cannot be read.
    """
    from torchvision.datasets.folder import IMG_EXTENSIONS

    found: dict[str, str] = {}
    seen: set[str] = set()
    waiting = [(str(folder), os.path.realpath(folder))]
    while waiting:
        place, real = waiting.pop()
        try:
            entries = sorted(os.scandir(place), key=lambda entry: entry.name)
        except OSError as error:
            raise UsageError(f"{place} cannot be read: {error.strerror}") from error
        if real in seen:
            left_out[AGAIN] += len(entries)
            continue
        seen.add(real)
        below = []
        for entry in entries:
            inside = os.path.realpath(entry.path) if entry.is_symlink() else os.path.join(real, entry.name)
            if entry.name.startswith("."):
                left_out[HIDDEN] += 1
            elif entry.is_dir():
                below.append((entry.path, inside))
            elif not entry.name.lower().endswith(IMG_EXTENSIONS):
                left_out[NO_IMAGE] += 1
            elif entry.is_symlink() and not os.path.exists(inside):
                left_out[NOWHERE] += 1
            elif not entry.is_file():
                left_out[NO_FILE] += 1
            elif inside in seen:
                left_out[AGAIN] += 1
            else:
                seen.add(inside)
                found[entry.path] = inside
        waiting += reversed(below)
    return found


def read_rgb(path: str) -> Any:
    """The image of a file, as `as_rgb` gives it.

    Raises:
        OSError: If it cannot be read; besides, whatever `as_rgb` raises.
    """
    from PIL import Image

    with Image.open(regular(Path(path))) as image:
        return as_rgb(image)


def as_rgb(image: Any) -> Any:
    """An image as PIL's RGB, upright, whatever it is stored as; transparent pixels are white.

    Args:
        image: What PIL has opened, and not read yet.

    Raises:
        ValueError: If nobody can tell how its numbers are meant, or it is too slim to be resized.
        OSError: If it cannot be read.
    """
    from PIL import Image

    width, height = image.size
    if max(width, height) > _SLIMMEST * min(width, height):
        raise ValueError(f"it has {width}x{height} pixels; one side may be {_SLIMMEST} times the other at most")
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        # Pillow's own conversion would clip 16-bit grey to white.
        image = _upright(image)
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(
            f"its grey values are 32-bit {'integers' if image.mode == 'I' else 'floating point numbers'}, of which "
            "nobody knows what is black and what is white; save it with 8 or 16 bits"
        )
    image = _upright(image)
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
        image.load()
        image = Image.alpha_composite(Image.new("RGBA", image.size, (*_BACKGROUND, 255)), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def size_of(path: str) -> tuple[int, int]:
    """Width and height of an image, upright."""
    from PIL import Image

    with Image.open(regular(Path(path))) as image:
        return _upright(image).size if image.getexif().get(_ORIENTATION, 1) != 1 else image.size


def _upright(image: Any) -> Any:
    """An image as its camera was held."""
    from PIL import ImageOps

    image.load()  # which turns a TIFF itself
    return ImageOps.exif_transpose(image) if image.getexif().get(_ORIENTATION, 1) != 1 else image
