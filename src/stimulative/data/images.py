"""Loaders of photographs, which worker processes read, crop and augment one by one.

Everything random about an image is drawn from a number that the sampler hands out with it, so batches depend on the
seed and the epoch, not on the number of workers.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from stimulative.data.augmentation import lighting_noise
from stimulative.data.batches import Batch, batches_in, generator_for, share_of
from stimulative.data.pixels import Normalisation
from stimulative.errors import UsageError
from stimulative.residual import sent

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Images(Protocol):
    """Numbered images that are read one by one."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def read(self, number: int) -> Any:
        """The image of a number, as PIL's RGB."""
        ...

    def target(self, number: int) -> Any:
        """What it shows: a tensor, or a mask that is prepared with the image."""
        ...

    def origin(self, number: int) -> str:
        """Where the image of a number is from, for messages."""
        ...


Transform = Callable[[Any, Any], tuple[Tensor, Tensor]]
"""From PIL's image and what it shows to uint8 (3, side, side) and the target."""


class _Sample(NamedTuple):
    """An image on its way from a worker.

    Args:
        image: uint8 (3, side, side).
        target: What it shows: its class, its labels, or the class of each pixel.
        light: What is added to its channels on the scale 0..1, float32 (3,).
    """

    image: Tensor
    target: Tensor
    light: Tensor


class _Unreadable(NamedTuple):
    """Stands for an image that could not be read, on its way from a worker to the process that reports it."""

    origin: str
    reason: str


class _Prepared(Dataset[_Sample | _Unreadable]):
    """Images, prepared, by `(number, random number)`."""

    def __init__(self, images: Images, transform: Transform, lighting: float, *, policy: bool) -> None:
        self._images = images
        self._transform = transform
        self._lighting = lighting
        self._seeded = _all_seeded if policy else _seeded

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, item: tuple[int, int]) -> _Sample | _Unreadable:
        number, random_number = item
        try:
            image, target = self._images.read(number), self._images.target(number)
        # Decoders raise almost anything on damaged files: OSError, SyntaxError, ValueError, struct.error.
        except Exception as error:
            return _Unreadable(self._images.origin(number), str(error))
        with self._seeded(random_number):
            prepared, target = self._transform(image, target)
            light = lighting_noise(self._lighting) if self._lighting else torch.zeros(3)
        return _Sample(prepared, target, light)


@contextmanager
def _seeded(number: int) -> Iterator[None]:
    """Seed the generator that augmentations draw from, and leave it as it was.

    Without workers it is the training's own.
    """
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(number)
    try:
        yield
    finally:
        torch.set_rng_state(state)


@contextmanager
def _all_seeded(number: int) -> Iterator[None]:
    """Seed all generators that policies draw from, too; NumPy's and Python's take fifty times as long as PyTorch's."""
    states = random.getstate(), np.random.get_state()
    random.seed(number)
    # PyTorch's generator and NumPy's are the same one and seeded by 32 bits: with the same bits they would agree.
    np.random.seed(number >> 31)
    try:
        with _seeded(number):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def _collate(samples: list[_Sample | _Unreadable]) -> tuple[Tensor, Tensor, Tensor] | _Unreadable:
    whole = []
    for sample in samples:
        if isinstance(sample, _Unreadable):
            return sample
        whole.append(sample)
    images, targets, lights = zip(*whole, strict=True)
    return torch.stack(images), torch.stack(targets), torch.stack(lights)


class _Order(Sampler[tuple[int, int]]):
    """The `(number, random number)` of each image of a pass, or of those of every so many-th batch."""

    def __init__(self, order: Callable[[int], tuple[Tensor, Tensor]], images: int, batch_size: int) -> None:
        self._order = order
        self._images = images
        self._drawn: tuple[int, tuple[Tensor, Tensor]] | None = None
        self.batch_size = batch_size
        self.epoch = 0
        self.batches = slice(None)

    def __len__(self) -> int:
        return self._images

    def of_epoch(self) -> tuple[Tensor, Tensor]:
        """Numbers and random numbers of this epoch."""
        if self._drawn is None or self._drawn[0] != self.epoch:
            self._drawn = self.epoch, self._order(self.epoch)
        return self._drawn[1]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        numbers, random_numbers = self.of_epoch()
        pairs = list(zip(numbers.tolist(), random_numbers.tolist(), strict=True))
        starts = range(0, len(pairs), self.batch_size)[self.batches]
        return iter([pair for start in starts for pair in pairs[start : start + self.batch_size]])


class ImageLoader:
    """Batches of images that are read one by one by worker processes, normalised on the device.

    Args:
        images: The images.
        transform: PIL image and what it shows to uint8 (3, side, side) and the target.
        policy: Whether it draws from the generators of NumPy and Python, and not from PyTorch's alone.
        order: Numbers and random numbers of the images of an epoch; always equally many.
        count: How many.
        batch_size: Images per batch.
        drop_incomplete: Drop the last batch if it is incomplete, unless it is the only one.
        workers: Processes; 0 reads in this one.
        keep_workers: Keep the processes from one pass to the next.
        device: Where batches go.
        normalisation: What is done to the pixels.
        std: Deviation of each channel, by which the normalisation divides.
        lighting: Deviation of the lighting noise, 0 for none. It is added to the normalised images, so that it is
            neither rounded nor clipped.
    """

    def __init__(
        self,
        images: Images,
        transform: Transform,
        order: Callable[[int], tuple[Tensor, Tensor]],
        *,
        count: int,
        batch_size: int,
        workers: int,
        device: torch.device,
        normalisation: Normalisation,
        std: tuple[float, ...],
        policy: bool = False,
        lighting: float = 0.0,
        drop_incomplete: bool = False,
        keep_workers: bool = False,
    ) -> None:
        batches = batches_in(count, batch_size, drop_incomplete=drop_incomplete)
        self._images = min(count, batches * batch_size)
        self._order = _Order(order, count, batch_size)
        self._numbered = len(images)
        self._device = device
        self._normalisation = normalisation
        self._lighting = lighting
        self._std = torch.tensor(std, device=device)
        self._batches = DataLoader(
            _Prepared(images, transform, lighting, policy=policy),
            batch_size=batch_size,
            sampler=self._order,
            drop_last=self._images < count,
            num_workers=workers,
            persistent_workers=keep_workers and workers > 0,
            collate_fn=_collate,
            pin_memory=device.type == "cuda",
            # Its own, or starting a pass would draw from the training's random numbers.
            generator=torch.Generator(),
        )

    @property
    def images(self) -> int:
        """Images of a pass."""
        return self._images

    @property
    def numbered(self) -> int:
        """How many images have numbers, those that are held out included."""
        return self._numbered

    def numbers(self, batch: int) -> Tensor:
        """The numbers of the images of a batch of this epoch, int64 (batch,)."""
        stop = min((batch + 1) * self._order.batch_size, self._images)
        return self._order.of_epoch()[0][batch * self._order.batch_size : stop]

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next passes."""
        self._order.epoch = epoch

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        return self.every(0)

    def every(self, first: int, step: int = 1) -> Iterator[Batch]:
        """The batches of a pass from one on, or every so many-th of them; images of the others are not read."""
        self._order.batches = slice(first, None, step)
        for batch in self._batches:
            if isinstance(batch, _Unreadable):
                raise UsageError(f"{batch.origin} cannot be read as an image ({batch.reason}); replace or remove it")
            x, y, light = batch
            x = self._normalisation(sent(x, self._device))
            if self._lighting:
                x.add_((sent(light, self._device) / self._std)[:, :, None, None])
            yield x, sent(y, self._device)


Arrangement = Callable[[np.ndarray, torch.Generator], Tensor]
"""From images (images,) to the same in an order that a generator decides."""


def anyhow(index: np.ndarray, generator: torch.Generator) -> Tensor:
    """The images at `index`, every order of which is as likely."""
    return torch.from_numpy(index)[torch.randperm(len(index), generator=generator)]


def shuffled(index: np.ndarray, seed: int, purpose: str, arrangement: Arrangement = anyhow) -> tuple[Tensor, Tensor]:
    """The images at `index` in random order, each with a random number to be augmented by."""
    generator = generator_for(seed, purpose)
    numbers = arrangement(index, generator)
    return numbers, torch.randint(2**63 - 1, (len(index),), generator=generator)


def training_order(
    index: np.ndarray, *, seed: int, rank: int, world_size: int, arrangement: Arrangement = anyhow
) -> Callable[[int], tuple[Tensor, Tensor]]:
    """The images at `index` in an order of their own in every epoch; one process's share of them."""

    def order(epoch: int) -> tuple[Tensor, Tensor]:
        numbers, random_numbers = shuffled(index, seed, f"training epoch {epoch}", arrangement)
        return share_of(numbers, rank, world_size), share_of(random_numbers, rank, world_size)

    return order


def fixed_order(numbers: Tensor, random_numbers: Tensor | None = None) -> Callable[[int], tuple[Tensor, Tensor]]:
    """The same images in every epoch, augmented alike."""
    drawn = torch.zeros_like(numbers) if random_numbers is None else random_numbers
    return lambda epoch: (numbers, drawn)
