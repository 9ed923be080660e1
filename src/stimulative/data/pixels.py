"""Small images, kept on the device as bytes: cropped, mirrored and normalised there.

A random crop after zero padding and a mirror only say which pixel lands where. So the padded images are laid
out once, and a batch is one gather: image, row and column numbers in, augmented batch out, with no loop over
images and no copy of images to the device during training.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from stimulative.data.batches import Batch, CountedBatches, generator_for, share_of
from stimulative.residual import sent


class Pixels(NamedTuple):
    """One split of a small-image set in main memory.

    Args:
        images: uint8 (images, channels, side, side).
        labels: int64 (images,).
    """

    images: Tensor
    labels: Tensor


class Views(NamedTuple):
    """Which images a pass shows, and how: all (images,), in the order they are shown.

    Args:
        image: Its number.
        top: First row of the crop in the padded image; the padding shows it unmoved.
        left: First column of the crop in the padded image.
        mirrored: Whether left and right are exchanged.
    """

    image: Tensor
    top: Tensor
    left: Tensor
    mirrored: Tensor


def plain_views(index: Tensor, *, padding: int) -> Views:
    """The images as they are."""
    unmoved = torch.full_like(index, padding)
    return Views(index, unmoved, unmoved, torch.zeros_like(index, dtype=torch.bool))


def augmented_views(
    index: Tensor, *, padding: int, flip: bool, generator: torch.Generator, rank: int = 0, world_size: int = 1
) -> Views:
    """The images in random order, each with its own crop and mirror; one process's share of them.

    Drawn for all processes before the share is taken, so an image looks the same however many there are.
    """
    count = len(index)
    order = torch.randperm(count, generator=generator)
    top = torch.randint(2 * padding + 1, (count,), generator=generator)
    left = torch.randint(2 * padding + 1, (count,), generator=generator)
    mirrored = torch.rand(count, generator=generator) < (0.5 if flip else 0.0)
    return Views(*(share_of(values, rank, world_size) for values in (index[order], top, left, mirrored)))


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel on the scale 0..1.

    Taken from a histogram of the 256 grey levels, so that they do not depend on order or threads.

    Args:
        images: uint8 (images, channels, height, width).

    Returns:
        Means and standard deviations; a constant channel gets the deviation of one grey level, not zero.
    """
    levels = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in images.unbind(1):
        share = torch.bincount(channel.flatten(), minlength=256).double() / channel.numel()
        mean = (share * levels).sum()
        means.append(float(mean))
        stds.append(max(float((share * (levels - mean).square()).sum().sqrt()), 1 / 255))
    return tuple(means), tuple(stds)


class Normalisation:
    """Bytes to `(x / 255 - mean) / std`, as one multiplication and one addition per pixel."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> None:
        means, stds = torch.tensor([mean, std], dtype=torch.float64)
        self._scale = (1 / (255 * stds)).float().to(device)[:, None, None]
        self._shift = (-means / stds).float().to(device)[:, None, None]

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (batch, channels, height, width) to normalised float32 of the same shape."""
        return images.to(torch.float32).mul_(self._scale).add_(self._shift)


@dataclass(frozen=True)
class PixelStore:
    """One split on the device, padded once for all the crops to come.

    Args:
        padded: uint8 (images, channels, side + 2 * padding, side + 2 * padding).
        labels: int64 (images,).
        padding: Zero pixels on each side.
        normalisation: Applied to every batch.
    """

    padded: Tensor
    labels: Tensor
    padding: int
    normalisation: Normalisation

    @classmethod
    def of(cls, pixels: Pixels, *, padding: int, normalisation: Normalisation, device: torch.device) -> "PixelStore":
        """Pad a split and move it to the device."""
        images = pad(pixels.images.to(device), (padding,) * 4)
        return cls(images.contiguous(), pixels.labels.to(device), padding, normalisation)

    def batch(self, views: Views) -> Batch:
        """Crop, mirror and normalise a batch. The views are on the store's device."""
        _, channels, height, width = self.padded.shape
        side = width - 2 * self.padding
        steps = torch.arange(side, device=self.padded.device)
        rows = views.top[:, None] + steps
        columns = views.left[:, None] + torch.where(views.mirrored[:, None], side - 1 - steps, steps)
        planes = views.image[:, None] * channels + torch.arange(channels, device=self.padded.device)
        # Positions in the flattened store, (batch, channels, side, side): `take` with them is twice as fast
        # on a CPU as indexing with four broadcast tensors, and gives the same bytes.
        positions = (planes[:, :, None] * height + rows[:, None, :])[:, :, :, None] * width
        images = torch.take(self.padded, positions + columns[:, None, None, :])
        return self.normalisation(images), self.labels[views.image]


class PixelLoader(CountedBatches):
    """Batches from a store on the device.

    Args:
        store: Where the images are.
        views: Gives the views of an epoch; always equally many.
        images: How many.
        batch_size: Images per batch.
        drop_incomplete: Drop the last batch if it is incomplete, unless it is the only one.
    """

    def __init__(
        self,
        store: PixelStore,
        views: Callable[[int], Views],
        *,
        images: int,
        batch_size: int,
        drop_incomplete: bool = False,
    ) -> None:
        super().__init__(images, batch_size, drop_incomplete=drop_incomplete)
        self._store = store
        self._views = views
        self._shown: tuple[int, Views] | None = None

    @property
    def numbered(self) -> int:
        """How many images have numbers, those that are held out included."""
        return len(self._store.labels)

    def numbers(self, batch: int) -> Tensor:
        """The numbers of the images of a batch of this epoch, int64 (batch,)."""
        stop = min((batch + 1) * self._batch_size, self._images)
        return self._of_epoch().image[batch * self._batch_size : stop]

    def _of_epoch(self) -> Views:
        """The views of this epoch, on the store's device."""
        if self._shown is None or self._shown[0] != self._epoch:
            device = self._store.padded.device
            self._shown = self._epoch, Views(*(sent(values, device) for values in self._views(self._epoch)))
        return self._shown[1]

    def __iter__(self) -> Iterator[Batch]:
        views = self._of_epoch()
        for start in range(0, self._images, self._batch_size):
            stop = min(start + self._batch_size, self._images)
            yield self._store.batch(Views(*(values[start:stop] for values in views)))


def training_loader(
    store: PixelStore,
    index: np.ndarray,
    *,
    seed: int,
    batch_size: int,
    flip: bool,
    rank: int,
    world_size: int,
) -> PixelLoader:
    """Shuffled and augmented batches of the images at `index`, new in every epoch."""
    positions = torch.from_numpy(index)

    def views(epoch: int) -> Views:
        generator = generator_for(seed, f"training epoch {epoch}")
        return augmented_views(
            positions, padding=store.padding, flip=flip, generator=generator, rank=rank, world_size=world_size
        )

    return PixelLoader(store, views, images=len(index) // world_size, batch_size=batch_size, drop_incomplete=True)


def evaluation_loader(store: PixelStore, index: np.ndarray, *, batch_size: int) -> PixelLoader:
    """The images at `index` as they are, in that order."""
    views = plain_views(torch.from_numpy(index), padding=store.padding)
    return PixelLoader(store, lambda epoch: views, images=len(index), batch_size=batch_size)


def calibration_loaders(
    store: PixelStore, index: np.ndarray, *, seed: int, batch_size: int, flip: bool
) -> tuple[PixelLoader, PixelLoader]:
    """The images at `index`, shuffled, the same in every pass: augmented as for training, and as they are.

    Returns:
        Both; the same loader twice where there is no augmentation.
    """
    generator = generator_for(seed, "calibration")
    views = augmented_views(torch.from_numpy(index), padding=store.padding, flip=flip, generator=generator)
    plain = plain_views(views.image, padding=store.padding)
    augmented = PixelLoader(store, lambda epoch: views, images=len(index), batch_size=batch_size)
    if not (store.padding or flip):
        return augmented, augmented
    return augmented, PixelLoader(store, lambda epoch: plain, images=len(index), batch_size=batch_size)
