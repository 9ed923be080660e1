"""How many images a recipe trains and is measured on, without reading more of them than it needs.

Data sets whose sizes are known (CIFAR) or told are not opened: made-up images of their size and number of classes stand
for them, and nothing is downloaded. Others are opened, as training would open them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from stimulative.config import Recipe
from stimulative.data import FAKE, FOLDER, FOLDER_SIZE, NATIVE_CLASSES, NATIVE_SIZE, foreign_to
from stimulative.errors import UsageError
from stimulative.training import Prepared, prepare

_KNOWN = {"cifar10": (50_000, 10_000), "cifar100": (50_000, 10_000)}
"""Training and test images of data sets that would be downloaded."""

_IN_FILES = FOLDER, "wds:"
"""Images of one class each, of which only their number, classes and size matter here."""


@dataclass(frozen=True)
class Amounts:
    """How many images, or sequences, there are.

    Args:
        training: Those of an epoch, of all processes.
        validation: Those held out.
        test: Those of the test split.
        opened: Whether the data were opened for this; otherwise their size was known, or told.
    """

    training: int
    validation: int
    test: int
    opened: bool


def foresee(recipe: Recipe, *, processes: int, images: Sequence[int] | None = None) -> tuple[Prepared, Amounts]:
    """What a recipe resolves to on one of several processes, and how many images there are.

    Args:
        recipe: The recipe.
        processes: How many processes train together.
        images: Training images, before a part of them is held out, and test images, of data that are not here.

    Raises:
        UsageError: If the data cannot be opened, or numbers are told of data that say their own.
    """
    known = images or _KNOWN.get(recipe.data.name)
    if known is not None:
        return _stood_in(recipe, processes, (known[0], known[1] if len(known) > 1 else 0), told=images is not None)
    try:
        prepared = prepare(recipe, world_size=processes, weights=recipe.data.task == "embedding")
    except UsageError as error:
        if recipe.data.name.startswith(_IN_FILES) and "data.classes" not in str(error):
            raise UsageError(
                f"{error}. To plan without the data, say how many images there will be: images="
            ) from error
        raise
    data = prepared.data
    return prepared, Amounts(data.train.images * processes, data.validation.images, data.test.images, opened=True)


def _stood_in(recipe: Recipe, processes: int, images: tuple[int, int], *, told: bool) -> tuple[Prepared, Amounts]:
    name, settings = recipe.data.name, recipe.data
    small = name in NATIVE_CLASSES
    if told and not name.startswith(_IN_FILES):
        raise UsageError(f"images= is for images of {FOLDER}PATH that are not here; {name} says itself how many it has")
    if not small and settings.classes is None:
        raise UsageError("data.classes: to plan without the data, say how many classes they have")
    images = settings.train_images or images[0], images[1]
    held = math.ceil(settings.validation * images[0])
    if not 0 < held < images[0]:
        raise UsageError(f"images=: {images[0]} images leave none to train on, or none to hold out")
    instead = {
        **{f"data.{key}": default for key, default in foreign_to(FAKE).items()},
        "data.name": FAKE,
        "data.path": None,
        "data.mean": None,
        "data.std": None,
        "data.classes": NATIVE_CLASSES[name] if small else settings.classes,
        "data.image_size": NATIVE_SIZE[name] if small else settings.image_size or FOLDER_SIZE,
        "data.images": images[0] - held,
        "data.workers": 0,
    }
    prepared = prepare(recipe.override(instead), world_size=processes)
    return prepared, Amounts(prepared.data.train.images * processes, held, images[1], opened=False)
