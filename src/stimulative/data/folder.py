"""Images of one's own in folders: `PATH/train/CLASS/…` and `PATH/val/CLASS/…`, as ImageNet is laid out."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stimulative.data import fingerprints
from stimulative.data.image_files import images_below, read_rgb
from stimulative.data.resized_images import ImageSource, ResizedSettings
from stimulative.data.split import hold_out, taken
from stimulative.errors import UsageError
from stimulative.files import regular, user_path

FOLDER = "folder:"
FOLDER_SIZE = 224

_TRAIN, _TEST = "train", "val"
_LONGEST_LIST = 2**26
"""Bytes of a list of classes."""


@dataclass(frozen=True)
class FolderSettings(ResizedSettings):
    """Settings of a folder of images.

    Args:
        train_images: How many of the training images are taken, held out ones included; None for all.
        validation: Share of them held out.
    """

    train_images: int | None
    validation: float

    def problems(self) -> dict[str, str]:
        """What cannot be used as given, by key."""
        found = super().problems()
        if self.name == FOLDER:
            found["name"] = "data.name: 'folder:' needs the path of a folder with train/ and val/, as in folder:PATH"
        return found

    def source(self, seed: int) -> ImageSource:
        """List the files."""
        path = self.name.removeprefix(FOLDER)
        found = ImageFolders.find(path)
        classes = len(found.class_names)
        if self.classes not in (None, classes):
            raise UsageError(
                f"data.classes: {path} has {classes} classes, got {self.classes}; leave it out, or choose other images"
            )
        train = found.train.at(taken(found.train.labels, self.train_images, class_names=found.class_names))
        training, validation = hold_out(train.labels, self.validation, seed=seed, class_names=found.class_names)
        size = self.image_size or FOLDER_SIZE
        fingerprint = fingerprints.of_split(path, train, found.test, train.labels, found.test.labels)
        images = train, training, validation, found.test
        return ImageSource(found.class_names, size, *images, fingerprint, found.left_out)


@dataclass(frozen=True)
class ImageList:
    """The images of one split.

    Args:
        paths: Their files.
        labels: Their classes, int64 (images,), or their labels, float32 (images, labels).
    """

    paths: tuple[str, ...]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)

    def at(self, positions: np.ndarray) -> "ImageList":
        """Those at some positions (images,)."""
        return ImageList(tuple(self.paths[number] for number in positions), self.labels[positions])

    def read(self, number: int) -> Any:
        """The image of a number, as PIL's RGB whatever it is stored as."""
        return read_rgb(self.paths[number])

    def target(self, number: int) -> Tensor:
        """Its class, int64, or its labels, float32 (labels,)."""
        return torch.as_tensor(self.labels[number])

    def origin(self, number: int) -> str:
        """Where the image of a number is from, for messages."""
        return self.paths[number]


@dataclass(frozen=True)
class ImageFolders:
    """A folder with `train/` and `val/`, its files listed but not opened.

    Args:
        class_names: The names of the classes' folders, sorted.
        train: Images of `train/`.
        test: Images of `val/`.
        left_out: By reason, how many files were left out.
    """

    class_names: tuple[str, ...]
    train: ImageList
    test: ImageList
    left_out: Mapping[str, int]

    @classmethod
    def find(cls, path: str) -> "ImageFolders":
        """List the classes and images below a path.

        Raises:
            UsageError: If a folder is missing or empty, or `train/` and `val/` differ in their classes.
        """
        root = user_path(path)
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
        if len(class_names) == 1:
            raise UsageError(
                f"{root / _TRAIN} has one class, {class_names[0]!r}: a classifier of one class is always right; give "
                "it images of what is none of it as another class"
            )
        left_out: Counter[str] = Counter()
        train, train_files = _image_list(root / _TRAIN, class_names, left_out)
        test, test_files = _image_list(root / _TEST, class_names, left_out)
        _check_apart(root, train_files, test_files)
        return cls(class_names, train, test, {reason: count for reason, count in left_out.items() if count})


def names_in(file: Path) -> tuple[str, ...]:
    """The names of classes that are the lines of a file.

    Raises:
        UsageError: If it cannot be read, has none, or one of them twice.
    """
    try:
        lines = regular(file, most=_LONGEST_LIST).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"data.name: {file} cannot be read as a list of classes: {error}") from error
    names = tuple(line.strip() for line in lines if line.strip())
    if not names:
        raise UsageError(f"data.name: {file} has no names of classes; write one a line, or remove it")
    repeated = [name for name, times in Counter(names).items() if times > 1]
    if repeated:
        raise UsageError(f"data.name: {file} names {repeated[0]!r} twice; each class has a name of its own")
    return names


def _class_names(split: Path) -> tuple[str, ...]:
    names = tuple(sorted(f.name for f in split.iterdir() if f.is_dir() and not f.name.startswith(".")))
    if not names:
        raise UsageError(f"{split} is empty; expected one folder of images per class")
    return names


def _image_list(split: Path, class_names: tuple[str, ...], left_out: Counter[str]) -> tuple[ImageList, dict[str, str]]:
    """The images of a split, and where each of their files really is."""
    from torchvision.datasets.folder import IMG_EXTENSIONS

    of_classes = [images_below(split / name, left_out) for name in class_names]
    empty = sorted(name for name, paths in zip(class_names, of_classes, strict=True) if not paths)
    if empty:
        raise UsageError(
            f"{split}: no images in {_listed(empty)}; expected files ending in {', '.join(IMG_EXTENSIONS)}; "
            "add images or remove the class from both splits"
        )
    labels = np.repeat(np.arange(len(class_names), dtype=np.int64), [len(paths) for paths in of_classes])
    paths = {path: real for of_class in of_classes for path, real in of_class.items()}
    return ImageList(tuple(paths), labels), paths


def _check_apart(root: Path, train: dict[str, str], test: dict[str, str]) -> None:
    """Make sure that no file is trained on and tested on, by a link."""
    trained = set(train.values())
    both = [path for path, real in test.items() if real in trained]
    if both:
        raise UsageError(
            f"{root}: {len(both)} of the {len(test)} images of {_TEST}/ are files of {_TRAIN}/, too, such as "
            f"{both[0]}: what is measured on them would say nothing; remove the links"
        )


def _listed(names: Any) -> str:
    shown = sorted(names)
    return (", ".join(shown[:5]) + (f" and {len(shown) - 5} more" if len(shown) > 5 else "")) or "none"
