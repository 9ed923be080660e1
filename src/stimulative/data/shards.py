"""Images in shards, tar files as WebDataset has them, for data of which a folder would have too many files.

Shards are read at the places that their index tells (see `shard_index`), so everything that holds for images in folders
holds for them: what an epoch shows depends on the seed and the epoch alone, each image once, whatever the number of
workers and processes; a part of every class can be held out; and a run goes on in the middle of an epoch without
reading what it has seen.

What differs is the order of training images, in which each process reads from few shards at a time; see `InStreams`.
"""

from __future__ import annotations

import io
import os
import weakref
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stimulative.data import fingerprints
from stimulative.data.folder import FOLDER_SIZE, names_in
from stimulative.data.image_files import as_rgb
from stimulative.data.resized_images import ImageSource, ResizedSettings
from stimulative.data.shard_index import ShardIndex, indexes_of, name_at
from stimulative.data.shard_patterns import find_shards, pattern_problem
from stimulative.data.split import hold_out
from stimulative.errors import UsageError
from stimulative.files import regular
from stimulative.naming import printable

SHARDS = "wds:"

CLASS_NAMES = "classes.txt"


@dataclass(frozen=True)
class ShardSettings(ResizedSettings):
    """Settings of images in shards.

    Args:
        validation: Share of the training images held out.
        test_shards: The shards to test on.
        train_images: How many training images there have to be, held out ones included; None for as many as there are.
        streams: How many shards training images are read from in turn.
    """

    validation: float
    test_shards: str | None
    train_images: int | None
    streams: int

    def problems(self) -> dict[str, str]:
        """What cannot be used as given, by key."""
        found = super().problems()
        pattern = self.name.removeprefix(SHARDS)
        if not pattern:
            found["name"] = (
                f"data.name: '{SHARDS}' needs the shards to train on, as in wds:imagenet/train-{{000..146}}.tar"
            )
        elif problem := pattern_problem(pattern):
            found["name"] = f"data.name: {problem}"
        if not self.test_shards:
            found["test_shards"] = (
                f"data.test_shards: {self.name} needs the shards to test on, too, as in imagenet/val-{{000..006}}.tar"
            )
        elif problem := pattern_problem(self.test_shards):
            found["test_shards"] = f"data.test_shards: {problem}"
        return found

    def source(self, seed: int) -> ImageSource:
        """Find the shards, and what is in them."""
        pattern, test_pattern = self.name.removeprefix(SHARDS), self.test_shards or ""
        shards, test_shards = find_shards(pattern, "data.name"), find_shards(test_pattern, "data.test_shards")
        _check_apart(shards, test_shards)
        indexes, test_indexes = indexes_of(shards), indexes_of(test_shards)
        names = _class_names(shards, indexes, test_indexes, self.classes)
        train, test = ShardImages.of(shards, indexes, names), ShardImages.of(test_shards, test_indexes, names)
        if self.train_images not in (None, len(train)):
            raise UsageError(
                f"data.train_images: the {len(shards)} shards {pattern} hold {len(train):,} images, got "
                f"{self.train_images:,}; leave it out, or look for shards that are missing"
            )
        training, validation = hold_out(train.labels, self.validation, seed=seed, class_names=names)
        return ImageSource(
            names,
            self.image_size or FOLDER_SIZE,
            train,
            training,
            validation,
            test,
            {"training images": train.fingerprint(), "test images": test.fingerprint()},
            sum((Counter(index.left_out) for index in (*indexes, *test_indexes)), Counter()),
            InStreams(train.shard, self.streams),
        )


@dataclass(frozen=True)
class ShardImages:
    """The images of one split.

    Args:
        shards: The shards.
        shard: Which of them each image is in, int64 (images,).
        offset: Where in it the image begins, int64 (images,).
        size: How many bytes it has, int64 (images,).
        labels: Its class, int64 (images,).
        states: How large each shard was when its images were listed, and when it had been changed last.
        opened: The shards that are open.
    """

    shards: tuple[str, ...]
    shard: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    labels: np.ndarray
    states: tuple[tuple[int, int], ...]
    opened: _OpenShards = field(default_factory=lambda: _OpenShards(), repr=False, compare=False)

    @classmethod
    def of(cls, shards: tuple[str, ...], indexes: list[ShardIndex], names: tuple[str, ...]) -> ShardImages:
        """The images of shards, in the order in which they stand there.

        Args:
            shards: The shards.
            indexes: What is in each.
            names: The names of the classes.

        Raises:
            UsageError: If a label is none of the classes.
        """
        place = {name: number for number, name in enumerate(names)}
        labels = []
        for shard, index in zip(shards, indexes, strict=True):
            strange = [name for name in index.names or () if name not in place]
            if strange:
                raise UsageError(
                    f"{shard}: label {strange[0]!r} is none of the {len(names)} classes, such as {names[0]!r}"
                )
            label = index.label if index.names is None else np.array([place[name] for name in index.names])[index.label]
            if label.max() >= len(names):
                raise UsageError(
                    f"{shard}: label {label.max()} is none of the {len(names)} classes, 0 to {len(names) - 1}"
                )
            labels.append(label)
        return cls(
            shards,
            np.repeat(np.arange(len(shards)), [len(index.offset) for index in indexes]),
            np.concatenate([index.offset for index in indexes]),
            np.concatenate([index.size for index in indexes]),
            np.concatenate(labels),
            tuple((index.bytes, index.modified) for index in indexes),
        )

    def __len__(self) -> int:
        return len(self.shard)

    def read(self, number: int) -> Any:
        """The image of a number, as PIL's RGB.

        Raises:
            ValueError: If it is none.
            OSError: If it cannot be read, or the shard is not the one that was listed.
        """
        from PIL import Image, UnidentifiedImageError

        place = self.shard[number]
        shard = self.opened.shard(self.shards[place], self.states[place])
        try:
            with Image.open(io.BytesIO(shard.read(int(self.offset[number]), int(self.size[number])))) as image:
                return as_rgb(image)
        except UnidentifiedImageError as error:
            raise ValueError("it is of no format that Pillow knows") from error

    def target(self, number: int) -> Tensor:
        """Its class, int64."""
        return torch.as_tensor(self.labels[number])

    def origin(self, number: int) -> str:
        """The shard and the member that an image is, for messages."""
        shard = self.shards[self.shard[number]]
        return f"{shard}: {printable(name_at(shard, int(self.offset[number])))}"

    def fingerprint(self) -> str:
        """A short text that changes with the shards' names, and with the places, sizes and labels of their images."""
        names = [Path(shard).name for shard in self.shards]
        return fingerprints.of_shards(names, self.shard, self.offset, self.size, self.labels)


class InStreams:
    """Training images in an order in which few shards are read from at a time.

    Shards are put one after the other in random order, and the images of each are shuffled. This row is cut into
    equally long streams, which then give an image each in turn. So a batch comes from as many shards as there are
    streams. Of several processes, which take turns at these images, each has streams of its own if their number divides
    that of the streams, and with them shards of its own, but for those that a cut goes through. The order is the same
    for any number of processes.

    Args:
        shard: Which shard each image is in, int64 (images,).
        streams: How many streams.
    """

    def __init__(self, shard: np.ndarray, streams: int) -> None:
        self._shard = torch.from_numpy(shard)
        self._streams = streams

    def __call__(self, index: np.ndarray, generator: torch.Generator) -> Tensor:
        """The images at `index` (images,) in random order."""
        images = torch.from_numpy(index)[torch.randperm(len(index), generator=generator)]
        turns = torch.randperm(int(self._shard[-1]) + 1, generator=generator)
        row = images[torch.argsort(turns[self._shard[images]], stable=True)]
        length = len(row) // self._streams
        whole = length * self._streams
        return torch.cat([row[:whole].view(self._streams, length).T.reshape(-1), row[whole:]])


class _OpenShard:
    """A shard that is open for reading, by any number of processes that are forks of each other.

    Args:
        path: The shard.
        state: Its size in bytes and its time of change in nanoseconds, as they have to be.

    Raises:
        OSError: If they are others, or it cannot be opened.
    """

    def __init__(self, path: str, state: tuple[int, int]) -> None:
        self._descriptor = os.open(regular(Path(path)), os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)
        now = os.fstat(self._descriptor)
        if (now.st_size, now.st_mtime_ns) != state:
            raise OSError("the shard was changed after its images had been listed: start the run again")

    def read(self, offset: int, size: int) -> bytes:
        """Some bytes of it.

        Raises:
            OSError: If it has become shorter.
        """
        content = os.pread(self._descriptor, size, offset)
        if len(content) < size:
            raise OSError(f"the shard ends {size - len(content):,} bytes too early")
        return content


class _OpenShards:
    """The shards that were read from last; in another process none."""

    def __init__(self) -> None:
        self.shard = lru_cache(maxsize=64)(_OpenShard)

    def __reduce__(self) -> Any:
        return type(self), ()


def _check_apart(train: tuple[str, ...], test: tuple[str, ...]) -> None:
    real = {os.path.realpath(shard) for shard in train}
    both = [shard for shard in test if os.path.realpath(shard) in real]
    if both:
        raise UsageError(
            f"data.test_shards: {len(both)} of the {len(test)} shards to test on are trained on, too, such as "
            f"{both[0]}: what is measured on them would say nothing"
        )


def _class_names(
    shards: tuple[str, ...], indexes: list[ShardIndex], test_indexes: list[ShardIndex], classes: int | None
) -> tuple[str, ...]:
    """The names of the classes: those of `classes.txt` beside the shards, of the labels, or numbers."""
    file = Path(shards[0]).parent / CLASS_NAMES
    if file.exists():
        names = names_in(file)
    elif len({index.names is None for index in (*indexes, *test_indexes)}) > 1:
        raise UsageError(
            f"{shards[0]} and others: labels are numbers in some shards, and names in others; write the names, a line "
            f"each in the order of the numbers, into {file}"
        )
    elif indexes[0].names is not None:
        names = tuple(sorted({name for index in indexes for name in index.names or ()}))
    elif classes is not None:
        return tuple(map(str, range(classes)))
    else:
        present = np.unique(np.concatenate([index.label for index in indexes]))
        absent = np.setdiff1d(np.arange(len(present)), present)
        if len(absent):
            raise UsageError(
                f"{shards[0]} and others: no image has label {absent[0]}, though labels go up to {present[-1]}; they "
                "are counted from 0. Where that is right, say how many classes there are with data.classes"
            )
        names = tuple(map(str, present))
    if classes not in (None, len(names)):
        raise UsageError(f"data.classes: {shards[0]} and others have {len(names)} classes, got {classes}; leave it out")
    if len(names) == 1:
        raise UsageError(
            f"{shards[0]} and others have one class, {names[0]!r}: a classifier of one class is always right"
        )
    return names
