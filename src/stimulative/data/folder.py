"""Images of one's own in folders: `PATH/train/CLASS/…` and `PATH/val/CLASS/…`, as ImageNet is laid out."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stimulative.data import fingerprints
from stimulative.data.resized_images import ImageSource, ResizedSettings
from stimulative.data.split import hold_out
from stimulative.errors import UsageError

FOLDER = "folder:"
FOLDER_SIZE = 224

_TRAIN, _TEST = "train", "val"


@dataclass(frozen=True)
class FolderSettings(ResizedSettings):
    """Settings of a folder of images.

    Args:
        validation: Share of the training images held out.
    """

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
        training, validation = hold_out(found.train.labels, self.validation, seed=seed, class_names=found.class_names)
        size = self.image_size or FOLDER_SIZE
        fingerprint = fingerprints.of_split(path, found.train, found.test, found.train.labels, found.test.labels)
        return ImageSource(found.class_names, size, found.train, training, validation, found.test, fingerprint)


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

    def read(self, number: int) -> Any:
        """The image of a number, as PIL's RGB whatever it is stored as."""
        return read_rgb(self.paths[number])

    def target(self, number: int) -> Tensor:
        """Its class, int64, or its labels, float32 (labels,)."""
        return torch.as_tensor(self.labels[number])

    def origin(self, number: int) -> str:
        """Where the image of a number is from, for messages."""
        return self.paths[number]


def read_rgb(path: str) -> Any:
    """The image of a file as PIL's RGB, whatever it is stored as."""
    from PIL import Image

    with Image.open(path) as image:
        if image.mode.startswith("I;16"):
            # Pillow's own conversion would clip 16-bit grey to white.
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        return image.convert("RGB")


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
