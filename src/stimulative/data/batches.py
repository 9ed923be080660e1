"""What the training loop asks of a loader, and how an epoch gets its randomness."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from stimulative.residual import sent

Batch = tuple[Any, Any]
"""What a model takes, and its targets; None where there are none."""


class Loader(Protocol):
    """Batches of one part of a data set, on the device.

    Two passes over a loader at the same epoch give the same batches, bit for bit.
    """

    @property
    def images(self) -> int:
        """Images, or sequences, that one pass over this loader gives (in this process, if there are several)."""
        ...

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next passes belong to. Loaders without randomness ignore it."""
        ...

    def __len__(self) -> int:
        """Batches in a pass."""
        ...

    def __iter__(self) -> Iterator[Batch]:
        """Give `(x, y)`.

        Of images x is normalised float32 (batch, channels, height, width), y int64 (batch,). Of text x maps `input_ids`
        and `attention_mask` to int64 (batch, length), and y is the token that follows each, int64 (batch, length), -100
        where none counts.
        """
        ...


class CountedBatches:
    """What a loader of equally many samples in every epoch knows: how many, in how many batches, and which epoch it is.

    Args:
        count: Samples of an epoch.
        batch_size: Samples per batch.
        drop_incomplete: Drop the last batch if it is incomplete, unless it is the only one.
    """

    def __init__(self, count: int, batch_size: int, *, drop_incomplete: bool) -> None:
        self._batch_size = batch_size
        self._batches = batches_in(count, batch_size, drop_incomplete=drop_incomplete)
        self._images = min(count, self._batches * batch_size)
        self._epoch = 0

    @property
    def images(self) -> int:
        """Samples of a pass."""
        return self._images

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next passes."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._batches


class LazyLoader:
    """A loader that is built when it is first used.

    The test split is one: unless it is asked for after each epoch, a run reads it once, at its end, so a run that stops
    earlier never pays for it.
    """

    def __init__(self, build: Callable[[], Loader]) -> None:
        self._build = build
        self._loader: Loader | None = None

    @property
    def built(self) -> bool:
        """Whether the loader was needed yet."""
        return self._loader is not None

    @property
    def loader(self) -> Loader:
        """The loader, built now if it was not."""
        if self._loader is None:
            self._loader = self._build()
        return self._loader

    @property
    def images(self) -> int:
        """Images of a pass; builds the loader."""
        return self.loader.images

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next passes; builds the loader."""
        self.loader.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.loader)

    def every(self, first: int, step: int = 1) -> Iterator[Batch]:
        """The batches of a pass from one on, or every so many-th of them."""
        return every(self.loader, first, step)


class ChangedLoader:
    """A loader whose batches are made into others, each when it is read.

    Args:
        loader: Gives the batches.
        change: Makes another one of a batch, of as many samples.
    """

    def __init__(self, loader: Loader, change: Callable[[Batch], Batch]) -> None:
        self._loader = loader
        self._change = change

    @property
    def images(self) -> int:
        """Images of a pass."""
        return self._loader.images

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next passes."""
        self._loader.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        return self.every(0)

    def every(self, first: int, step: int = 1) -> Iterator[Batch]:
        """The batches of a pass from one on, or every so many-th of them."""
        return map(self._change, every(self._loader, first, step))


def every(loader: Iterable[Any], first: int, step: int = 1) -> Iterator[Any]:
    """The batches of a pass with the numbers `first`, `first + step` and so on.

    A loader whose batches take long to make has a method `every` of that meaning, and does not make the others. Of any
    other loader they are read and left out; those in front of the first one at once, since a loader of one's own may
    draw from the training's random numbers while it reads.
    """
    own: Callable[[int, int], Iterator[Any]] | None = getattr(loader, "every", None)
    if own is not None:
        return own(first, step)
    batches = iter(loader)
    for _ in islice(batches, first):
        pass
    return islice(batches, 0, None, step)


def numbers_of(loader: Iterable[Any], batch: int) -> tuple[Tensor, int] | None:
    """Which samples a batch of the present epoch is of, and how many have numbers.

    Args:
        loader: Where its samples have numbers, it has ``numbers(batch)`` and ``numbered``.
        batch: The number of the batch, from 0.

    Returns:
        Their numbers, int64 (batch,), the same in every epoch; None where they have none.
    """
    numbers: Any = getattr(loader, "numbers", None)
    size: Any = getattr(loader, "numbered", None)
    if not callable(numbers) or not isinstance(size, int):
        return None
    of_batch: Any = numbers(batch)
    return of_batch, size


def moved(batch: Batch, device: torch.device) -> Batch:
    """A batch on a device."""
    x, y = batch
    return pytree.tree_map_only(Tensor, lambda part: sent(part, device), (x, y))


def derived_seed(seed: int, purpose: str) -> int:
    """A 64-bit seed for one purpose of a run.

    Hashed, because neighbouring seeds and epochs (0 and 1, 1 and 0) must not share random numbers.
    """
    return int.from_bytes(hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=8).digest(), "big")


def generator_for(seed: int, purpose: str) -> torch.Generator:
    """A generator for one purpose of a run, on the CPU so that every device sees the same numbers."""
    return torch.Generator().manual_seed(derived_seed(seed, purpose))


def share_of(values: Tensor, rank: int, world_size: int) -> Tensor:
    """The part of an epoch's values (images,) that belongs to one of several processes.

    Parts are disjoint and equally long; up to `world_size - 1` values at the end belong to nobody. Every
    `world_size`-th value is taken, so the processes' k-th batches together are what one process would
    take as its k-th batch of `world_size` times the size.
    """
    usable = len(values) - len(values) % world_size
    return values[rank:usable:world_size]


def batches_in(images: int, batch_size: int, *, drop_incomplete: bool) -> int:
    """Number of batches; an incomplete last batch is dropped on request, unless it is the only one."""
    full, rest = divmod(images, batch_size)
    return full if rest == 0 or (drop_incomplete and full > 0) else full + 1
