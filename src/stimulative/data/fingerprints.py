"""Short texts that tell whether data are still the same."""

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from stimulative.errors import UsageError

_LOOKED_AT = 10_000
"""Files whose sizes are looked at; of more, as many that lie evenly. The names of all of them count."""


class _Named(Protocol):
    def __len__(self) -> int: ...
    def origin(self, number: int) -> str: ...


def of_values(*values: Tensor | np.ndarray) -> str:
    """The fingerprint of arrays: how many samples, and a hash of all their values."""
    digest = hashlib.sha256()
    for value in values:
        array = torch.as_tensor(value).detach().cpu().contiguous()
        digest.update(f"{array.dtype} {tuple(array.shape)} ".encode())
        content: Any = array.view(torch.uint8).numpy() if array.numel() else b""
        digest.update(content)
    return f"{len(values[0]):,} samples, sha256 {digest.hexdigest()[:16]}"


def of_texts(texts: Iterable[str]) -> str:
    """The fingerprint of texts."""
    digest, count = hashlib.sha256(), 0
    for text in texts:
        count += 1
        digest.update(f"{len(text)} ".encode())
        digest.update(text.encode("utf-8", "surrogatepass"))
    return f"{count:,} texts, sha256 {digest.hexdigest()[:16]}"


def of_files(root: str, files: _Named, targets: Iterable[object] = ()) -> str:
    """The fingerprint of files below a folder: their names, their targets where they are known, and sizes of some.

    Args:
        root: The folder.
        files: The files.
        targets: What each of them shows.

    Contents are not read, which would take as long as an epoch: a file that is replaced by one of the same size goes
    unseen.
    """
    digest = hashlib.sha256()
    paths = [files.origin(number) for number in range(len(files))]
    every = max(1, -(-len(paths) // _LOOKED_AT))
    for number, path in enumerate(paths):
        digest.update(f"{PurePath(os.path.relpath(path, root)).as_posix()}\0".encode("utf-8", "surrogatepass"))
        if number % every == 0:
            try:
                digest.update(f"{os.stat(path).st_size} ".encode())
            except OSError as error:
                raise UsageError(f"{path} cannot be read: {error.strerror}; replace or remove it") from error
    digest.update(repr([*map(str, targets)]).encode())
    return f"{len(paths):,} files, sha256 {digest.hexdigest()[:16]}"


def of_shards(names: Iterable[str], *values: np.ndarray) -> str:
    """The fingerprint of images in shards: the shards' names, and hashes of what is known of their images.

    Args:
        names: The shards' names.
        values: Where the images are, how large they are, and what they show; (images,) each.

    Contents are not read, as of files.
    """
    names = list(names)
    digest = hashlib.sha256(f"{of_texts(names)} {of_values(*values)}".encode())
    return f"{len(values[0]):,} images in {len(names):,} shards, sha256 {digest.hexdigest()[:16]}"


def of_split(
    root: str, train: _Named, test: _Named, train_targets: Iterable[object] = (), test_targets: Iterable[object] = ()
) -> dict[str, str]:
    """The fingerprint of a folder with files to train on and to test on."""
    expanded = os.path.expanduser(root)
    return {
        "training images": of_files(expanded, train, train_targets),
        "test images": of_files(expanded, test, test_targets),
    }


def changes_of_data(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """In what two fingerprints of a data set differ, a phrase each; what one of them does not know is no difference."""
    parts = [part for part in before if part in now and before[part] != now[part]]
    return [f"{part}: {before[part]} then, {now[part]} now" for part in parts]
