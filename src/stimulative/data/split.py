"""Which of the training images are taken, and which of those are held out."""

import math
from collections.abc import Sequence

import numpy as np

from stimulative.data.batches import derived_seed
from stimulative.errors import UsageError


def taken(labels: np.ndarray, count: int | None, *, class_names: Sequence[str]) -> np.ndarray:
    """Choose training images, of every class its share: always the same ones, whatever the seed of a run.

    Args:
        labels: Class of each image, (images,).
        count: How many to take; None for all of them.
        class_names: For the error message.

    Returns:
        Their positions, ascending int64.

    Raises:
        UsageError: If there are not so many, or they are too few to have two of each class.
    """
    from sklearn.model_selection import train_test_split

    if count is None or count == len(labels):
        return np.arange(len(labels))
    classes = len(_classes_of_two(labels, class_names))
    least, most = 2 * classes, len(labels) - classes
    if not least <= count <= most:
        raise UsageError(
            f"data.train_images: got {count:,}, but of {len(labels):,} training images in {classes} classes {least:,} "
            f"to {most:,} can be drawn; null is all of them"
        )
    chosen, _ = train_test_split(
        np.arange(len(labels)), train_size=count, stratify=labels, random_state=derived_seed(0, "taken") % 2**32
    )
    few = sorted({*range(len(class_names))} & {*labels.tolist()} - {*_of_two(labels[chosen])})
    if few:
        raise UsageError(
            f"data.train_images: {count:,} of {len(labels):,} images leave fewer than 2 of class "
            f"{class_names[few[0]]!r}; take more, or remove the class"
        )
    return np.sort(chosen)


def hold_out(
    labels: np.ndarray, share: float, *, seed: int, class_names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Split images into a part to train on and a part held out, each with every class's share.

    Args:
        labels: Class of each image, (images,).
        share: Share to hold out, above 0 and below 1.
        seed: Of the run; the same seed holds out the same images.
        class_names: For the error messages.

    Returns:
        Positions to train on and positions held out, both ascending int64.

    Raises:
        UsageError: If the classes have too few images for it.
    """
    from sklearn.model_selection import train_test_split

    present = _classes_of_two(labels, class_names)
    held = math.ceil(share * len(labels))
    for part, size in (("to hold out", held), ("to train on", len(labels) - held)):
        if size < len(present):
            raise UsageError(
                f"data.validation: {share} of {len(labels)} training images leaves {size} {part}, fewer than "
                f"the {len(present)} classes; allowed here: {len(present) / len(labels):.3g} to "
                f"{1 - len(present) / len(labels):.3g}, or add images"
            )
    training, validation = train_test_split(
        np.arange(len(labels)),
        test_size=share,
        stratify=labels,
        random_state=derived_seed(seed, "validation split") % 2**32,
    )
    return np.sort(training), np.sort(validation)


def hold_out_any(count: int, share: float, *, seed: int, what: str = "images") -> tuple[np.ndarray, np.ndarray]:
    """Split images that have no single class into a part to train on and a part held out.

    Args:
        count: How many images.
        share: Share to hold out, above 0 and below 1.
        seed: Of the run; the same seed holds out the same images.
        what: What they are called.

    Returns:
        Positions to train on and positions held out, both ascending int64.

    Raises:
        UsageError: If one of them would be empty.
    """
    held = math.ceil(share * count)
    if not 0 < held < count:
        raise UsageError(f"data.validation: {share} of {count} training {what} leaves none to train on; add {what}")
    order = np.random.default_rng(derived_seed(seed, "validation split")).permutation(count)
    return np.sort(order[held:]), np.sort(order[:held])


def _of_two(labels: np.ndarray) -> np.ndarray:
    """The classes that have two images or more, (classes,)."""
    present, counts = np.unique(labels, return_counts=True)
    return present[counts >= 2]


def _classes_of_two(labels: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    """The classes that there are images of, (classes,).

    Raises:
        UsageError: If one of them has a single image, which cannot be divided.
    """
    present, counts = np.unique(labels, return_counts=True)
    if counts.min() < 2:
        name = class_names[int(present[counts.argmin()])]
        raise UsageError(
            f"class {name!r} has {counts.min()} training image; holding out a validation part needs at "
            "least 2 in every class; add images or remove the class"
        )
    return present
