"""Where weights are: a file, or a part of one, written ``FILE#KEY``.

The key is the path to the part: the keys of the checkpoint's dictionaries and then what names of tensors begin with,
joined by dots. So it is ``model_ema`` in ``{"model": ..., "model_ema": ...}``, and ``state_dict.teacher`` in
``{"state_dict": {"teacher.conv1.weight": ..., "student.conv1.weight": ...}}``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from stimulative.files import user_path


class WeightsPlace(NamedTuple):
    """A file of weights, or a part of one.

    Args:
        path: The file.
        key: The path to the part inside of it; empty for all of it.
    """

    path: Path
    key: str = ""

    @classmethod
    def of(cls, given: str | Path) -> WeightsPlace:
        """What ``FILE`` or ``FILE#KEY`` stands for; a file that has the sign in its own name is found, too."""
        text = str(given)
        signs = [at for at, letter in enumerate(text) if at and letter == "#"]
        possible = [cls(user_path(text[:at]), text[at + 1 :]) for at in (len(text), *reversed(signs))]
        return next((place for place in possible if place.path.exists()), possible[min(1, len(signs))])

    def __str__(self) -> str:
        return inside(self.path, self.key)

    @property
    def name(self) -> str:
        """A name for what is made of these weights, fit for a directory."""
        key = re.sub(r"[^\w-]+", "-", self.key).strip("-")
        return f"{self.path.stem}-{key}" if key else self.path.stem


def inside(file: str | Path, key: str) -> str:
    """``FILE#KEY`` for a part of a file, or of a part that has a key already."""
    if not key:
        return str(file)
    return f"{file}{'.' if WeightsPlace.of(file).key else '#'}{key}"
