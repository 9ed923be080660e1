"""Images of one's own in folders: `PATH/train/CLASS/…` and `PATH/val/CLASS/…`, as ImageNet is laid out.

Images are read and decoded by worker processes. Each image's random crop and mirror is drawn from a number
that the sampler hands out with it, so batches depend on the seed and the epoch, not on the number of workers.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from stimulative.data.loader import Batch, batches_in, generator_for, share_of
from stimulative.data.pixels import Normalisation
from stimulative.errors import UsageError

DEFAULT_SIZE = 224
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_TRAIN, _TEST = "train", "val"


@dataclass(frozen=True)
class ImageList:
    """The images of one split.

    Args:
        paths: Their files.
        labels: Their classes, int64 (images,).
    """

    paths: tuple[str, ...]
    labels: np.ndarray


@dataclass(frozen=True)
class ImageFolders:
    """A folder with `train/` and `val/`, its files listed but not opened.

    Args:
        class_names: The names of the classes' folders, sorted.
        train: Images of `train/`.
        test: Images of `val/`.
    """

    class_names: tuple[str, ...]
    train: ImageList
    test: ImageList

    @classmethod
    def find(cls, path: str) -> "ImageFolders":
        """List the classes and images below a path.

        Raises:
            UsageError: If a folder is missing or empty, or `train/` and `val/` differ in their classes.
        """
        root = Path(path).expanduser()
        for split in (_TRAIN, _TEST):
            if not (root / split).is_dir():
                raise UsageError(
                    f"data.name: {root / split} is not a folder; expected {root} to hold {_TRAIN}/ and "
                    f"{_TEST}/, each with one folder of images per class"
                )
        class_names = _class_names(root / _TRAIN)
        others = _class_names(root / _TEST)
        if class_names != others:
            raise UsageError(
                f"{root}: {_TRAIN}/ and {_TEST}/ must hold the same classes; "
                f"only in {_TRAIN}/: {_listed(set(class_names) - set(others))}; "
                f"only in {_TEST}/: {_listed(set(others) - set(class_names))}"
            )
        return cls(class_names, _image_list(root / _TRAIN, class_names), _image_list(root / _TEST, class_names))


def _class_names(split: Path) -> tuple[str, ...]:
    names = tuple(sorted(f.name for f in split.iterdir() if f.is_dir() and not f.name.startswith(".")))
    if not names:
        raise UsageError(f"{split} is empty; expected one folder of images per class")
    return names


def _image_list(split: Path, class_names: tuple[str, ...]) -> ImageList:
    from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

    numbers = {name: number for number, name in enumerate(class_names)}
    samples = make_dataset(str(split), numbers, extensions=IMG_EXTENSIONS, allow_empty=True)
    labels = np.array([label for _, label in samples], dtype=np.int64)
    empty = sorted(set(class_names) - {class_names[label] for label in set(labels.tolist())})
    if empty:
        raise UsageError(
            f"{split}: no images in {_listed(empty)}; expected files ending in {', '.join(IMG_EXTENSIONS)}; "
            "add images or remove the class from both splits"
        )
    return ImageList(tuple(path for path, _ in samples), labels)


def _listed(names: Any) -> str:
    shown = sorted(names)
    return (", ".join(shown[:5]) + (f" and {len(shown) - 5} more" if len(shown) > 5 else "")) or "none"


@dataclass(frozen=True)
class _Unreadable:
    """Stands for an image that could not be read, on its way from a worker to the process that reports it."""

    path: str
    reason: str


class _ImageFiles(Dataset[tuple[Tensor, int] | _Unreadable]):
    """Images as uint8 (3, side, side), by `(number, random number)`."""

    def __init__(self, images: ImageList, transform: Callable[[Any], Tensor]) -> None:
        self._images = images
        self._transform = transform

    def __len__(self) -> int:
        return len(self._images.paths)

    def __getitem__(self, item: tuple[int, int]) -> tuple[Tensor, int] | _Unreadable:
        number, random_number = item
        path = self._images.paths[number]
        try:
            image = _read_rgb(path)
        # Decoders raise almost anything on damaged files: OSError, SyntaxError, ValueError, struct.error.
        except Exception as error:
            return _Unreadable(path, str(error))
        # The process's own random state is left as it was: without workers it is the training's.
        state = torch.get_rng_state()
        torch.default_generator.manual_seed(random_number)
        try:
            return self._transform(image), int(self._images.labels[number])
        finally:
            torch.set_rng_state(state)


def _read_rgb(path: str) -> Any:
    """Read an image as RGB, whatever it is stored as."""
    from PIL import Image

    with Image.open(path) as image:
        if image.mode.startswith("I;16"):
            # Pillow's own conversion would clip 16-bit grey to white.
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        return image.convert("RGB")


def _collate(samples: list[tuple[Tensor, int] | _Unreadable]) -> tuple[Tensor, Tensor] | _Unreadable:
    images, labels = [], []
    for sample in samples:
        if isinstance(sample, _Unreadable):
            return sample
        images.append(sample[0])
        labels.append(sample[1])
    return torch.stack(images), torch.tensor(labels, dtype=torch.int64)


class _Order(Sampler[tuple[int, int]]):
    """The `(number, random number)` of each image of a pass."""

    def __init__(self, order: Callable[[int], tuple[Tensor, Tensor]], images: int) -> None:
        self._order = order
        self._images = images
        self.epoch = 0

    def __len__(self) -> int:
        return self._images

    def __iter__(self) -> Iterator[tuple[int, int]]:
        numbers, random_numbers = self._order(self.epoch)
        return iter(list(zip(numbers.tolist(), random_numbers.tolist(), strict=True)))


class FolderLoader:
    """Batches of image files, read by worker processes and normalised on the device.

    Args:
        images: The files.
        transform: PIL image to uint8 (3, side, side).
        order: Numbers and random numbers of the images of an epoch; always equally many.
        count: How many.
        batch_size: Images per batch.
        drop_incomplete: Drop the last batch if it is incomplete, unless it is the only one.
        workers: Processes; 0 reads in this one.
        keep_workers: Keep the processes from one pass to the next.
        device: Where batches go.
        normalisation: What is done to the pixels.
    """

    def __init__(
        self,
        images: ImageList,
        transform: Callable[[Any], Tensor],
        order: Callable[[int], tuple[Tensor, Tensor]],
        *,
        count: int,
        batch_size: int,
        workers: int,
        device: torch.device,
        normalisation: Normalisation,
        drop_incomplete: bool = False,
        keep_workers: bool = False,
    ) -> None:
        batches = batches_in(count, batch_size, drop_incomplete=drop_incomplete)
        self._images = min(count, batches * batch_size)
        self._order = _Order(order, count)
        self._device = device
        self._normalisation = normalisation
        self._batches = DataLoader(
            _ImageFiles(images, transform),
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

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next passes."""
        self._order.epoch = epoch

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._batches:
            if isinstance(batch, _Unreadable):
                raise UsageError(f"{batch.path} cannot be read as an image ({batch.reason}); replace or remove it")
            x, y = batch
            x = x.to(self._device, non_blocking=True)
            yield self._normalisation(x), y.to(self._device, non_blocking=True)


def training_loader(
    images: ImageList,
    index: np.ndarray,
    *,
    size: int,
    flip: bool,
    seed: int,
    batch_size: int,
    workers: int,
    device: torch.device,
    normalisation: Normalisation,
    interpolation: str,
    rank: int,
    world_size: int,
) -> FolderLoader:
    """Shuffled batches of the images at `index`, cropped in random scale and shape and mirrored."""

    def order(epoch: int) -> tuple[Tensor, Tensor]:
        shuffled, random_numbers = _shuffled(index, generator_for(seed, f"training epoch {epoch}"))
        return share_of(shuffled, rank, world_size), share_of(random_numbers, rank, world_size)

    return FolderLoader(
        images,
        _augmentation(size, flip, interpolation),
        order,
        count=len(index) // world_size,
        batch_size=batch_size,
        workers=workers,
        device=device,
        normalisation=normalisation,
        drop_incomplete=True,
        keep_workers=True,
    )


def calibration_loader(
    images: ImageList,
    index: np.ndarray,
    *,
    size: int,
    flip: bool,
    seed: int,
    batch_size: int,
    workers: int,
    device: torch.device,
    normalisation: Normalisation,
    interpolation: str,
) -> FolderLoader:
    """Batches of the images at `index`, shuffled and augmented as for training, the same in every pass."""
    drawn = _shuffled(index, generator_for(seed, "calibration"))
    return FolderLoader(
        images,
        _augmentation(size, flip, interpolation),
        lambda epoch: drawn,
        count=len(index),
        batch_size=batch_size,
        workers=workers,
        device=device,
        normalisation=normalisation,
    )


def _augmentation(size: int, flip: bool, interpolation: str) -> Callable[[Any], Tensor]:
    """What is done to a training image."""
    from torchvision.transforms import v2

    mirror = [v2.RandomHorizontalFlip()] if flip else []
    crop = v2.RandomResizedCrop(size, interpolation=v2.InterpolationMode(interpolation), antialias=True)
    return v2.Compose([crop, *mirror, v2.PILToTensor()])


def _shuffled(index: np.ndarray, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The images at `index` in random order, each with a random number to be augmented by."""
    shuffled = torch.from_numpy(index)[torch.randperm(len(index), generator=generator)]
    return shuffled, torch.randint(2**63 - 1, (len(index),), generator=generator)


def evaluation_loader(
    images: ImageList,
    index: np.ndarray,
    *,
    size: int,
    batch_size: int,
    workers: int,
    device: torch.device,
    normalisation: Normalisation,
    interpolation: str,
    crop_ratio: float,
) -> FolderLoader:
    """The centres of the images at `index`, in that order."""
    from torchvision.transforms import v2

    transform = v2.Compose(
        [
            v2.Resize(round(size / crop_ratio), interpolation=v2.InterpolationMode(interpolation), antialias=True),
            v2.CenterCrop(size),
            v2.PILToTensor(),
        ]
    )
    positions = torch.from_numpy(index)
    unused = torch.zeros_like(positions)
    return FolderLoader(
        images,
        transform,
        lambda epoch: (positions, unused),
        count=len(index),
        batch_size=batch_size,
        workers=workers,
        device=device,
        normalisation=normalisation,
    )
