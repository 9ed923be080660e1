"""Data sets of small images, all of them kept on the device: what `digits` and CIFAR have in common."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from stimulative.data import fingerprints, pixels
from stimulative.data.batches import LazyLoader
from stimulative.data.dataset import ImageData
from stimulative.data.image_settings import ImageSettings
from stimulative.data.kind import Opening
from stimulative.data.split import hold_out, taken
from stimulative.errors import UsageError

NATIVE_SIZE = {"digits": 8, "cifar10": 32, "cifar100": 32}
"""Side in pixels of the small-image sets."""

NATIVE_CLASSES = {"digits": 10, "cifar10": 10, "cifar100": 100}
"""Number of classes of the small-image sets."""

Reader = Callable[[str], tuple[pixels.Pixels, tuple[str, ...]]]
"""From the split `train` or `test` to its images, and to the names of the classes."""


@dataclass(frozen=True)
class SmallSettings(ImageSettings):
    """Settings of small images, which keep their size.

    Args:
        crop_padding: Zero pixels around a training image before a random crop of its own size.
        train_images: How many of the training images are taken, held out ones included; None for all.
        validation: Share of them held out.
    """

    accepted = ("crop_ratio", "interpolation", "workers")

    crop_padding: int
    train_images: int | None
    validation: float

    def problems(self) -> dict[str, str]:
        """What cannot be used as given, by key."""
        found = super().problems()
        side, classes = NATIVE_SIZE[self.name], NATIVE_CLASSES[self.name]
        if self.classes not in (None, classes):
            found["classes"] = f"data.classes: {self.name} has {classes} classes, got {self.classes!r}; leave it out"
        if self.image_size not in (None, side):
            found["image_size"] = (
                f"data.image_size: images of {self.name} are {side} pixels wide and are not resized, "
                f"got {self.image_size!r}; leave it out"
            )
        if "crop_padding" not in found and self.crop_padding >= side:
            found["crop_padding"] = (
                f"data.crop_padding: must be less than the {side} pixels of an image of {self.name}, or a "
                f"crop may miss the image, got {self.crop_padding}"
            )
        return found

    @abstractmethod
    def reader(self) -> Reader:
        """Find the images without reading them.

        Raises:
            UsageError: If they cannot be where they are said to be.
        """

    def unmixed(self, opening: Opening) -> ImageData:
        """Read the training images and put them on the device; the test images when they are first used."""
        read, device = self.reader(), opening.device
        train, class_names = read("train")
        chosen = taken(train.labels.numpy(), self.train_images, class_names=class_names)
        train = pixels.Pixels(train.images[chosen], train.labels[chosen])
        # Of all that are taken, so that runs with other seeds, and what they export, see images alike.
        mean, std = pixels.channel_statistics(train.images)
        mean, std = self.mean or mean, self.std or std
        channels, side = train.images.shape[1], train.images.shape[-1]
        if len(mean) != channels:
            raise UsageError(f"data.mean, data.std: {self.name} has {channels} channels, got {len(mean)}")
        normalisation = pixels.Normalisation(mean, std, device)
        labels = train.labels.numpy()
        training, validation = hold_out(labels, self.validation, seed=opening.seed, class_names=class_names)
        opening.check_shares(len(training))
        store = pixels.PixelStore.of(train, padding=self.crop_padding, normalisation=normalisation, device=device)

        def test_loader() -> pixels.PixelLoader:
            test = pixels.PixelStore.of(read("test")[0], padding=0, normalisation=normalisation, device=device)
            everything = np.arange(len(test.labels))
            return pixels.evaluation_loader(test, everything, batch_size=self.evaluation_batch_size)

        calibration, plain = pixels.calibration_loaders(
            store, training, seed=opening.seed, batch_size=self.evaluation_batch_size, flip=self.flip
        )
        return ImageData(
            name=self.name,
            classes=len(class_names),
            class_names=class_names,
            channels=channels,
            image_size=side,
            evaluation_image_size=side,
            mean=mean,
            std=std,
            train=pixels.training_loader(
                store,
                training,
                seed=opening.seed,
                batch_size=self.batch_size,
                flip=self.flip,
                rank=opening.rank,
                world_size=opening.world_size,
            ),
            validation=pixels.evaluation_loader(store, validation, batch_size=self.evaluation_batch_size),
            test=LazyLoader(test_loader),
            calibration=calibration,
            plain_calibration=plain,
            fingerprint={"training images": fingerprints.of_values(train.images, train.labels)},
        )
