"""scikit-learn's handwritten digits: 1,797 grey images of 8x8 pixels, shipped with the library."""

from dataclasses import dataclass

import numpy as np
import torch

from stimulative.data.pixels import Pixels
from stimulative.data.small_images import Reader, SmallSettings

CLASS_NAMES = tuple(str(digit) for digit in range(10))

_TEST_SHARE = 0.5


@dataclass(frozen=True)
class DigitsSettings(SmallSettings):
    """Settings of the digits."""

    def reader(self) -> Reader:
        """They come with scikit-learn."""
        return lambda split: (read(split), CLASS_NAMES)


def read(split: str) -> Pixels:
    """Read a split of the digits.

    scikit-learn has one list of images. Half of it, stratified, is the test split: always the same half, whatever
    the seed of the run. Half, because a test split of a few hundred images would be too coarse to tell nets apart.

    Args:
        split: `train` (898 images) or `test` (899).

    Returns:
        The images, their 17 grey levels 0..16 spread over 0..255.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    flat, classes = load_digits(return_X_y=True)
    levels, labels = np.asarray(flat).reshape(-1, 8, 8), np.asarray(classes)
    train, test = train_test_split(np.arange(len(labels)), test_size=_TEST_SHARE, stratify=labels, random_state=0)
    chosen = np.sort(train if split == "train" else test)
    images = np.rint(levels[chosen] * (255 / 16)).astype(np.uint8)
    return Pixels(torch.from_numpy(images[:, None]), torch.from_numpy(labels[chosen].astype(np.int64, copy=True)))
