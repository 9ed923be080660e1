"""CIFAR-10 and CIFAR-100, as torchvision keeps them or from Parquet files.

Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
"""

import http.client
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stimulative.data import parquet
from stimulative.data.pixels import Pixels
from stimulative.data.small_images import NATIVE_CLASSES, NATIVE_SIZE, Reader, SmallSettings
from stimulative.errors import UsageError
from stimulative.files import user_path

_LABEL_COLUMNS = {"cifar10": ("label",), "cifar100": ("fine_label", "label")}


@dataclass(frozen=True)
class CifarSettings(SmallSettings):
    """Settings of CIFAR.

    Args:
        path: torchvision's root or a folder of Parquet files; None for the usual root.
    """

    path: str | None

    def reader(self) -> Reader:
        """Find it at its path, or where downloads go."""
        return Cifar.find(self.name, self.path).read


@dataclass(frozen=True)
class Cifar:
    """A CIFAR data set found at a place.

    Args:
        name: `cifar10` or `cifar100`.
        root: torchvision's root or the folder of Parquet files.
        parquet_files: The Parquet files of each split; None if torchvision reads it.
    """

    name: str
    root: Path
    parquet_files: dict[str, list[Path]] | None

    @classmethod
    def find(cls, name: str, path: str | None) -> "Cifar":
        """Decide how a data set is read, without reading it.

        Raises:
            UsageError: If the path cannot be it.
        """
        root = user_path(path) if path is not None else default_root()
        if root.exists() and not root.is_dir():
            raise UsageError(
                f"data.path: {root} is a file; expected the folder that holds it (torchvision's root for "
                f"{name}, or one with train-*.parquet and test-*.parquet)"
            )
        return cls(name, root, parquet.find(root) if path is not None else None)

    def read(self, split: str) -> tuple[Pixels, tuple[str, ...]]:
        """Read the images of the split `train` or `test`, and the names of the classes.

        Raises:
            UsageError: If they cannot be had: no network, a corrupt image, another data set at this place.
        """
        if self.parquet_files is not None:
            return parquet.read(
                self.parquet_files[split],
                name=self.name,
                classes=NATIVE_CLASSES[self.name],
                side=NATIVE_SIZE[self.name],
                label_columns=_LABEL_COLUMNS[self.name],
            )
        source = _open(self.name, self.root, train=split == "train")
        images = np.ascontiguousarray(np.asarray(source.data, dtype=np.uint8).transpose(0, 3, 1, 2))
        labels = torch.tensor(source.targets, dtype=torch.int64)
        return Pixels(torch.from_numpy(images), labels), tuple(source.classes)


def default_root() -> Path:
    """Where downloads go if no path is given: `$STIMULATIVE_DATA`, else `~/.cache/stimulative`."""
    return user_path(os.environ.get("STIMULATIVE_DATA") or "~/.cache/stimulative")


def _open(name: str, root: Path, *, train: bool) -> Any:
    """Open torchvision's data set, downloaded first if it is not there."""
    from filelock import FileLock
    from torchvision import datasets

    kind = getattr(datasets, name.upper())
    try:
        # Complete already: needs no permission to write.
        return kind(root=str(root), train=train, download=False)
    except RuntimeError:
        pass
    try:
        root.mkdir(parents=True, exist_ok=True)
        # Several processes of one run start together; one downloads, the others find it done.
        with FileLock(root / f"{name}.lock"):
            return kind(root=str(root), train=train, download=True)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        raise UsageError(
            f"{name} is not in {root} and could not be downloaded ({error}); put {_address(kind)} there by "
            "hand (as it is, not unpacked), or set data.path to a folder that has it, torchvision's or "
            "one with train-*.parquet and test-*.parquet"
        ) from error


def _address(kind: Any) -> str:
    return getattr(kind, "url", "its archive")
