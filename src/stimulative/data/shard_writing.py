"""Making shards, and the lists of what is in them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from stimulative.data.batches import generator_for
from stimulative.data.folder import ImageFolders, ImageList
from stimulative.data.shard_index import INDEX, read_shard, write_index
from stimulative.data.shard_patterns import find_shards, pattern_problem
from stimulative.data.shards import CLASS_NAMES
from stimulative.errors import UsageError
from stimulative.files import make_directory, regular, replacing, user_path, write_text


def write_shards(folder: str | Path, out: str | Path, *, images_per_shard: int = 8_000, seed: int = 0) -> None:
    """Write the images of a folder as shards: `OUT/train-00000.tar` and so on, and `OUT/val-00000.tar`.

    Files go into them as they are, those of training in random order, so that each shard has images of many classes.
    Beside them are `classes.txt`, the names of the classes, and an index of each shard.

    Args:
        folder: One with `train/` and `val/`, each with one folder of images per class, as for `folder:PATH`.
        out: Where to; made if it is not there.
        images_per_shard: Images of a shard; the last one has what is left.
        seed: Decides on the order.

    Raises:
        UsageError: If the folder cannot be read, there are shards already, or the disk refuses.
    """
    if images_per_shard < 1:
        raise UsageError(f"images_per_shard has to be 1 or more, got {images_per_shard}")
    found, place = ImageFolders.find(str(folder)), user_path(out)
    make_directory(place)
    there = sorted(place.glob("*.tar"))
    if there:
        raise UsageError(f"{there[0]} exists already; remove the shards in {place}, or choose another out=")
    write_text(place / CLASS_NAMES, "".join(f"{name}\n" for name in found.class_names))
    shuffled = torch.randperm(len(found.train), generator=generator_for(seed, "shards")).tolist()
    for split, images, order in (("train", found.train, shuffled), ("val", found.test, range(len(found.test)))):
        for number, part in enumerate(_parts(order, images_per_shard)):
            shard = place / f"{split}-{number:05}.tar"
            with replacing(shard) as temporary:
                _write(temporary, images, part)
            write_index(read_shard(str(shard)), Path(f"{shard}{INDEX}"))


def index_shards(pattern: str) -> None:
    """Write an index beside each shard, so that no run has to read it from end to end first.

    Args:
        pattern: The shards, as in `data.name` behind `wds:`.

    Raises:
        UsageError: If a shard cannot be used, or the disk refuses.
    """
    problem = pattern_problem(pattern)
    if problem is not None:
        raise UsageError(f"pattern: {problem}")
    for shard in find_shards(pattern, "pattern"):
        write_index(read_shard(shard), Path(f"{shard}{INDEX}"))


def _parts(order: Iterable[int], size: int) -> Iterator[list[tuple[int, int]]]:
    """Numbers of images with their places in the whole, so many at a time."""
    numbered = list(enumerate(order))
    for first in range(0, len(numbered), size):
        yield numbered[first : first + size]


def _write(path: Path, images: ImageList, part: list[tuple[int, int]]) -> None:
    with tarfile.open(path, "w") as tar:
        for place, number in part:
            file = Path(images.paths[number])
            try:
                content = regular(file).read_bytes()
            except OSError as error:
                raise UsageError(f"{file} cannot be read: {error.strerror}; replace or remove it") from error
            label = str(int(images.labels[number])).encode()
            for ending, data in ((file.suffix.lower(), content), (".cls", label)):
                member = tarfile.TarInfo(f"{place:08}{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
