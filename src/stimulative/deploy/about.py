"""What a file that is deployed says of where it comes from, and of what its model takes and gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stimulative.data import Preparation
from stimulative.records import Record, absent
from stimulative.tasks import TaskName


@dataclass(frozen=True)
class NamedModel(Record):
    """How the whole model is built.

    Args:
        name: Its name, as in a recipe.
        arguments: The keyword arguments of its factory.
    """

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class About(Record):
    """Where a deployed model comes from, and what it takes and gives.

    Args:
        stimulative: The version of this library.
        versions: The versions of Python and of the packages that results depend on.
        model: How the whole model is built.
        task: What it is for.
        data: The name of the data set.
        vocabulary: Of texts, how many different tokens there are.
        length: Of texts, the tokens of a sequence in training, or the most of one.
        classes: Of images, the names of the classes, in their order.
        channels: Of images, their channels.
        image_size: Of images, their side in pixels.
        mean: Of images, the mean of each channel, from 0 to 1; empty if unknown.
        std: Of images, the standard deviation of each channel; empty if unknown.
        preparation: Of images that are not taken as they are stored, how validation and test images were made of them.
        recipe: The whole recipe.
    """

    stimulative: str
    versions: Mapping[str, str]
    model: NamedModel
    task: TaskName
    data: str
    vocabulary: int | None = absent()
    length: int | None = absent()
    classes: tuple[str, ...] | None = absent()
    channels: int | None = absent()
    image_size: int | None = absent()
    mean: tuple[float, ...] | None = absent()
    std: tuple[float, ...] | None = absent()
    preparation: Preparation | None = absent()
    recipe: Mapping[str, Any]
