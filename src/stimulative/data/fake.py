"""Images made up on the fly, to try a recipe without its data.

An image is its class's pattern, a few large patches of colour, under strong noise. So a network can learn the classes,
the easier the fewer they are, and nothing that it scores on them says anything about real images. Image and number
belong together whatever the seed of a run is. Nothing is stored: an image is computed when it is read.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from stimulative.data.augmentation import resized_side
from stimulative.data.batches import generator_for
from stimulative.data.resized_images import ImageSource, ResizedSettings

FAKE = "fake"
FAKE_SIZE = 32
DEFAULT_CLASSES = 10

_IMAGES = {"training": 2000, "validation": 500, "test": 1000}
_PATCHES = 4
_NOISE = 48


@dataclass(frozen=True)
class FakeSettings(ResizedSettings):
    """Settings of made-up images.

    Args:
        images: Training images; None for the usual number.
    """

    accepted = (*ResizedSettings.accepted, "validation")

    images: int | None

    def source(self, seed: int) -> ImageSource:
        """Images to make; they are the same for every seed."""
        classes = self.classes or DEFAULT_CLASSES
        training, validation, test = counts(self.images, classes)
        size = self.image_size or FAKE_SIZE
        # as large as the larger of what training crops from and what evaluation resizes to, so nothing is blown up
        side = max(size, resized_side(self.evaluation_image_size or size, self.crop_ratio))
        return ImageSource(
            class_names=tuple(str(number) for number in range(classes)),
            size=size,
            train=FakeImages("training", training + validation, classes, side),
            training=np.arange(training),
            validation=np.arange(training, training + validation),
            test=FakeImages("test", test, classes, side),
        )


def counts(images: int | None, classes: int) -> tuple[int, int, int]:
    """Training, validation and test images.

    Args:
        images: Training images asked for; without it there are 2,000, 500 and 1,000, or one of each class where that
            is more.
        classes: Number of classes.
    """
    if images is None:
        training, validation, test = (max(number, classes) for number in _IMAGES.values())
        return training, validation, test
    return images, max(1, images // 4), max(1, images // 2)


@dataclass(frozen=True)
class FakeImages:
    """The images of one split; the classes take turns.

    Args:
        split: Its name; images of different splits have different noise.
        count: How many images.
        classes: Number of classes.
        side: Their width and height in pixels.
    """

    split: str
    count: int
    classes: int
    side: int

    def __len__(self) -> int:
        return self.count

    def target(self, number: int) -> torch.Tensor:
        """Its class, int64."""
        return torch.tensor(number % self.classes)

    def read(self, number: int) -> Any:
        """Make the image of a number, as PIL's RGB."""
        from PIL import Image

        label = number % self.classes
        patches = _integers(0, 256, _PATCHES, generator_for(0, f"fake class {label}")).to(torch.uint8)
        pattern = Image.fromarray(patches.numpy()).resize((self.side, self.side), Image.Resampling.BICUBIC)
        noise = _integers(-_NOISE, _NOISE + 1, self.side, generator_for(0, f"fake {self.split} image {number}"))
        image = np.asarray(pattern, dtype=np.int16) + noise.numpy()
        return Image.fromarray(image.clip(0, 255).astype(np.uint8))

    def origin(self, number: int) -> str:
        """What the image of a number is called in messages."""
        return f"fake {self.split} image {number}"


def _integers(low: int, high: int, side: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randint(low, high, (side, side, 3), generator=generator, dtype=torch.int16)
