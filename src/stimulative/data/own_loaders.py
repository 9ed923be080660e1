"""Loaders of one's own, made into what the training loop consumes."""

from collections.abc import Generator, Iterable, Iterator, Mapping, Sized
from contextlib import closing
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from stimulative.data.batches import Batch, derived_seed, moved
from stimulative.data.dataset import ImageData, TextData
from stimulative.errors import UsageError
from stimulative.objectives import IGNORED
from stimulative.tasks import Task, TaskName, resolve_task

_EMPTY = "{} gives no batch; it must hold at least one"


class OwnLoader:
    """Any iterable of `(x, y)` batches, replayed by epoch where it allows that and moved to the device.

    A pass at an epoch starts by telling the epoch to whatever has a `set_epoch` (the iterable, its sampler,
    its batch sampler), and by seeding every `generator` it was given from that generator's initial seed and
    the epoch. A DataLoader without a `generator` shuffles by PyTorch's global random state instead, and
    persistent workers carry their random state from pass to pass: neither can be replayed from here.

    Args:
        batches: A DataLoader, a list, or anything else that can be iterated again and again.
        name: What it is for, in error messages.
        device: Where batches go.
        task: What they are for, where that is something else than classes.
    """

    def __init__(self, batches: Iterable[Any], *, name: str, device: torch.device, task: Task | None = None) -> None:
        if isinstance(batches, Iterator) or not isinstance(batches, Iterable):
            raise UsageError(
                f"{name} must be iterable again and again, one pass per epoch, got {type(batches).__name__}; "
                "pass a DataLoader, a list of (x, y) batches, or an object whose __iter__ starts anew"
            )
        if isinstance(batches, Sized) and _length(batches) == 0:
            raise UsageError(_EMPTY.format(name))
        self._batches = batches
        self._name = name
        self._device = device
        self._task = task
        self._epoch = 0
        self._counted: tuple[int, int] | None = None
        parts = [batches, getattr(batches, "sampler", None), getattr(batches, "batch_sampler", None)]
        parts.append(getattr(parts[-1], "sampler", None))
        unique = {id(part): part for part in parts if part is not None}.values()
        self._epoch_setters = [part for part in unique if callable(getattr(part, "set_epoch", None))]
        generators = [getattr(part, "generator", None) for part in unique]
        self._generators = {g: g.initial_seed() for g in generators if isinstance(g, torch.Generator)}

    @property
    def images(self) -> int:
        """Images of a pass; counted when first asked for, by a pass if nothing else tells."""
        return self._count()[0]

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next passes."""
        self._epoch = epoch

    def __len__(self) -> int:
        try:
            return len(self._batches)  # pyright: ignore[reportArgumentType]
        except TypeError:
            return self._count()[1]

    def __iter__(self) -> Iterator[Batch]:
        for x, y in self.unmoved():
            yield moved((x, self._target(y)), self._device)

    def unmoved(self) -> Generator[Batch, None, None]:
        """The batches of a pass where the iterable left them."""
        for part in self._epoch_setters:
            part.set_epoch(self._epoch)
        for generator, seed in self._generators.items():
            generator.manual_seed(derived_seed(seed, f"epoch {self._epoch}"))
        empty = True
        try:
            for batch in self._batches:
                empty = False
                yield self._pair(batch)
            if empty:
                raise UsageError(_EMPTY.format(self._name))
        finally:
            # With its initial seed back, the same DataLoader gives the same run when it is used again.
            for generator, seed in self._generators.items():
                generator.manual_seed(seed)

    def _count(self) -> tuple[int, int]:
        """Images and batches of a pass."""
        if self._counted is None:
            batches = self._batches
            with torch.random.fork_rng(devices=[]):
                if (
                    isinstance(batches, DataLoader)
                    and not isinstance(batches.dataset, IterableDataset)
                    and batches.batch_sampler is not None
                ):
                    # Which images a batch is made of is known without reading them.
                    sizes = [len(numbers) for numbers in batches.batch_sampler]
                else:
                    sizes = [len(y) for _, y in self.unmoved()]
            self._counted = sum(sizes), len(sizes)
        return self._counted

    def _target(self, y: Any) -> Any:
        """Targets in the number format of their task; classes are int64, whatever they come as."""
        if not isinstance(y, Tensor) or (self._task is not None and y.is_floating_point()):
            return y
        return y.to(torch.int64)

    def _pair(self, batch: Any) -> Batch:
        pair = isinstance(batch, tuple | list) and len(batch) == 2
        if pair and (isinstance(batch[1], Tensor) or (self._task is not None and self._task.name == "own")):
            x = dict(batch[0]) if isinstance(batch[0], Mapping) else batch[0]
            if all(isinstance(part, Tensor) for part in (x.values() if isinstance(x, dict) else [x])):
                return x, batch[1]
        raise UsageError(
            f"{self._name} must give batches (x, y) of two tensors, got {_described(batch)}; "
            "wrap it in a loader that picks them (for a language model x is a mapping of tensors)"
        )


def from_loaders(
    train: Iterable[Any],
    validation: Iterable[Any],
    test: Iterable[Any],
    *,
    classes: int,
    task: TaskName | Task | None = None,
    calibration: Iterable[Any] | None = None,
    plain_calibration: Iterable[Any] | None = None,
    device: torch.device | str = "cpu",
) -> ImageData | TextData:
    """Make a `Data` of loaders of one's own.

    One training batch is read to check it and to learn the size of the images. Give a shuffling DataLoader a
    `generator`: its epochs can then be replayed, and a resumed run equals an uninterrupted one.

    Args:
        train: Batches `(x, y)` to train on: x (batch, channels, height, width), ready for the model;
            y whole numbers (batch,) from 0 to `classes - 1`, or targets of another task. Or of text: x a mapping of
            `input_ids` and `attention_mask`, whole numbers (batch, length); y the token behind each, -100 for none.
        validation: Batches to choose the best checkpoint on.
        test: Batches to report on; not touched before it is used.
        classes: Number of classes; of text, of tokens; of numbers or images, how many numbers or channels come out.
        task: `multilabel`, `segmentation`, `regression`, `image_to_image`, or a task of one's own
            (`stimulative.tasks.OwnTask`); by default one class of each image, or for text the next token.
        calibration: Training images, augmented as for training, to recalibrate on; `train` at its first epoch if None.
        plain_calibration: The same images, prepared as those of validation, where that is another way.
        device: Where batches go.

    Returns:
        The data; `mean` and `std` are empty, because they are unknown.

    Raises:
        UsageError: If a loader can be read only once, or its batches are not `(x, y)` with targets of the task.
    """
    own = task if isinstance(task, Task) else None
    named: TaskName | None = _name_of(task) if isinstance(task, Task) else task
    other = own or (None if named in _OF_CLASSES else resolve_task(named))
    loader = partial(OwnLoader, device=torch.device(device), task=None if named in _OF_CLASSES else other)
    first = loader(train, name="train")
    named_parts = {"validation": validation, "test": test, "calibration": train if calibration is None else calibration}
    loaders = (first, *(loader(part, name=name) for name, part in named_parts.items()))
    x = _checked_first_batch(first, classes, other)
    names = _class_names(train, classes)
    plain = None if plain_calibration is None else loader(plain_calibration, name="plain_calibration")
    if isinstance(x, dict) and named in _OF_CLASSES:
        length = x["input_ids"].shape[-1]
        return TextData("own", classes, names, *loaders, plain_calibration=plain, length=length)
    if not isinstance(x, Tensor):
        raise UsageError(f"train must give images, one tensor a batch, for {named}; got {type(x).__name__}")
    channels, size = x.shape[1] if x.ndim > 1 else 1, x.shape[-1]
    return ImageData(
        *("own", classes, names, *loaders),
        plain_calibration=plain,
        task=named or "images",
        own_task=own,
        channels=channels,
        image_size=size,
        evaluation_image_size=size,
    )


_OF_CLASSES = None, "images", "text"


def _name_of(task: Task) -> TaskName:
    """What files call a task."""
    name: Any = "images" if task.name == "classification" else task.name
    return name


def _class_names(train: object, classes: int) -> tuple[str, ...]:
    """What the data set of a DataLoader calls its classes, or their numbers."""
    names = getattr(getattr(train, "dataset", None), "classes", None)
    if not isinstance(names, list | tuple) or len(names) != classes:
        names = range(classes)
    return tuple(str(name) for name in names)


def _checked_first_batch(loader: OwnLoader, classes: int, task: Task | None) -> Any:
    # Looking must not change what a run draws later from the global random state.
    with torch.random.fork_rng(devices=[]), closing(loader.unmoved()) as batches:
        x, y = next(batches)
    if task is not None and task.name != "classification":
        _check_targets(task, y, classes)
        return x
    if isinstance(x, dict):
        if "input_ids" not in x or not len(y) or y.shape != x["input_ids"].shape:
            shapes = {key: tuple(part.shape) for key, part in x.items()}
            raise UsageError(
                f"train must give one target per token of input_ids, got y of shape {tuple(y.shape)} for {shapes}"
            )
        y = y[y != IGNORED]
        if not len(y):
            raise UsageError(f"train gives a first batch in which no target counts: all of them are {IGNORED}")
    elif not len(y) or y.shape != x.shape[:1]:
        raise UsageError(
            f"train must give one label per image, got y of shape {tuple(y.shape)} for x of shape {tuple(x.shape)}"
        )
    lowest, highest = int(y.min()), int(y.max())
    if lowest < 0 or highest >= classes:
        raise UsageError(
            f"train must give labels from 0 to {classes - 1}, as classes={classes} says, "
            f"got labels from {lowest} to {highest}"
        )
    return x


def _check_targets(task: Task, y: Any, classes: int) -> None:
    """Make sure that targets could be those of outputs with so many classes."""
    if task.name == "own":
        return
    shape = {"multilabel": (classes,), "segmentation": (classes, *y.shape[-2:])}.get(task.name, y.shape[1:])
    try:
        task.check(torch.zeros(len(y), *shape), y, values=True)
    except UsageError as error:
        raise UsageError(f"train must give targets for {task.name}, as classes={classes} says: {error}") from error


def _length(batches: Sized) -> int | None:
    """How many batches there are; None where that is not known, as of a DataLoader of a stream."""
    try:
        return len(batches)
    except TypeError:
        return None


def _described(batch: Any) -> str:
    if isinstance(batch, tuple | list):
        return f"{type(batch).__name__} of ({', '.join(type(part).__name__ for part in batch)})"
    return type(batch).__name__
