"""What is in a shard: a tar file in which an image and its label stand one after the other, as WebDataset has it.

Members whose names are the same up to the first dot are a sample: `0001.jpg` is its image, `0001.cls` its label, a
number from 0 or a name, or `0001.json`, which is one or has one as `label` or `cls`. Everything else is passed over.
Nothing is unpacked, and nothing in a shard is run.

A shard is read from end to end once. Where its images are and what they show is kept as an index beside it or in the
user's cache, so that any image can be read alone, and in any order.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np

from stimulative.data.cifar import default_root
from stimulative.data.image_files import HIDDEN
from stimulative.errors import UsageError
from stimulative.files import CannotWrite, hash_of, regular, replacing
from stimulative.naming import printable

INDEX = ".index"

_LONGEST_LABEL = 2**20
_LARGEST_IMAGE = 2**30
"""Bytes of a member."""
_LONGEST_HEADER = 2**20
"""Bytes of what a header says about the member behind it, such as a long name."""
_BLOCK = tarfile.BLOCKSIZE
_ENDS = 2**16
_NUMBER = re.compile(r"[0-9]{1,9}")
_NEGATIVE = re.compile(r"-[0-9]")
_ARRAYS = ("offset", "size", "label")
_ABOUT_THE_NEXT = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_PACKED = (".gz", ".tgz", ".bz2", ".xz", ".zst")


@dataclass(frozen=True)
class ShardIndex:
    """Where the images of a shard are, and what they show.

    Args:
        bytes: How large the shard is.
        modified: When it was changed last, in nanoseconds since 1970.
        ends: A hash of its first and last bytes, by which a copy is known whose time is another.
        offset: Where each image begins, int64 (images,).
        size: How many bytes it has, int64 (images,).
        label: Its class, or the position of its class in the names, int64 (images,).
        names: The names that the labels are of; None where labels are numbers of classes.
        left_out: By reason, how many members were left out.
    """

    bytes: int
    modified: int
    ends: str
    offset: np.ndarray
    size: np.ndarray
    label: np.ndarray
    names: tuple[str, ...] | None
    left_out: Mapping[str, int] = field(default_factory=dict)

    def fits(self) -> bool:
        """Whether it can be that of a shard, as far as it says itself."""
        arrays = (self.offset, self.size, self.label)
        return (
            all(array.dtype == np.int64 and array.shape == self.offset.shape for array in arrays)
            and self.offset.ndim == 1
            and len(self.offset) > 0
            and bool((self.offset >= _BLOCK).all() and (self.size > 0).all() and (self.label >= 0).all())
            and bool((self.size <= np.minimum(_LARGEST_IMAGE, self.bytes - self.offset)).all())
            and (self.names is None or int(self.label.max()) < len(self.names))
            and all(map(_is_name, self.names or ()))
            and all(map(_is_name, self.left_out))
        )


def indexes_of(shards: Iterable[str]) -> list[ShardIndex]:
    """The indexes of shards, made and kept where there are none.

    Raises:
        UsageError: If a shard cannot be read, or does not hold images and labels; names the shard and the sample.
    """
    shards = list(shards)
    found = {shard: stored_index(shard) for shard in shards}
    missing = [shard for shard, index in found.items() if index is None]
    if len(missing) > 1:
        print(f"reading what is in {len(missing)} shards, once: {missing[0]}, ...", file=sys.stderr, flush=True)
    for shard in missing:
        made = found[shard] = read_shard(shard)
        with suppress(CannotWrite, OSError):  # it is made anew the next time
            kept = _in_cache(shard)
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_index(made, kept)
    return [index for index in found.values() if index is not None]


def stored_index(shard: str) -> ShardIndex | None:
    """The index beside a shard or in the cache; None if there is none that was made of it as it is now.

    The one in the cache is of the file that was there, to the nanosecond. The one beside a shard goes with it to other
    places, where times are others: it has to be as new, and of a shard with the same size and the same ends.
    """
    from safetensors import SafetensorError, safe_open

    beside = Path(shard + INDEX)
    for path in (beside, _in_cache(shard)):
        try:
            now, kept = os.stat(shard), os.stat(regular(path))
            with safe_open(path, "numpy") as file:
                arrays = {name: file.get_tensor(name) for name in _ARRAYS}
                about = json.loads(file.metadata()["index"])
            if path == beside:
                with open(regular(Path(shard)), "rb") as opened:
                    same = kept.st_mtime_ns >= now.st_mtime_ns and about["ends"] == _ends_of(opened)
            else:
                same = about["modified"] == now.st_mtime_ns
            names = None if about["names"] is None else tuple(map(str, about["names"]))
            left_out = {str(reason): int(count) for reason, count in about["left_out"].items()}
            index = ShardIndex(
                int(about["bytes"]), now.st_mtime_ns, str(about["ends"]), **arrays, names=names, left_out=left_out
            )
            if same and index.bytes == now.st_size and index.fits():
                return index
        except (OSError, SafetensorError, ValueError, TypeError, KeyError, AttributeError):
            continue
    return None


def write_index(index: ShardIndex, path: Path) -> None:
    """Write an index.

    Raises:
        CannotWrite: If the disk refuses.
    """
    from safetensors.numpy import save_file

    about = {name: getattr(index, name) for name in ("bytes", "modified", "ends", "names")}
    about["left_out"] = dict(index.left_out)
    arrays = {name: np.ascontiguousarray(getattr(index, name)) for name in _ARRAYS}
    with replacing(path) as temporary:
        save_file(arrays, temporary, {"index": json.dumps(about)})


def _in_cache(shard: str) -> Path:
    return default_root() / "shards" / f"{hash_of(os.path.realpath(shard))[:32]}{INDEX}"


def _ends_of(file: BinaryIO) -> str:
    """A hash of the first and the last bytes of an open shard."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    first = file.read(_ENDS)
    file.seek(max(0, size - _ENDS))
    return sha256(first + file.read(_ENDS)).hexdigest()


def name_at(shard: str, offset: int) -> str:
    """The name of the member whose contents begin at an offset, for messages."""
    with suppress(OSError, ValueError, tarfile.TarError), open(shard, "rb") as file:
        file.seek(offset - _BLOCK)
        return tarfile.TarInfo.frombuf(file.read(_BLOCK), "utf-8", "surrogateescape").name
    return f"the image at byte {offset:,}"


class _Member(tarfile.TarInfo):
    """A member whose headers have bounds: tarfile reads at once whatever length they give for what they say."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """A header block.

        Raises:
            ValueError: If it says more about the member behind it than can be.
        """
        header = super().frombuf(buf, encoding, errors)
        if header.type in _ABOUT_THE_NEXT and not 0 <= header.size <= _LONGEST_HEADER:
            raise ValueError(
                f"the header of {header.name} has {header.size:,} bytes, and may have {_LONGEST_HEADER:,}; the shard "
                "is damaged"
            )
        return header


@dataclass
class _Sample:
    """The members of a sample, as far as they have been met."""

    key: str
    images: list[tarfile.TarInfo] = field(default_factory=list)
    labels: dict[str, tarfile.TarInfo] = field(default_factory=dict)


def read_shard(shard: str) -> ShardIndex:
    """Find out what is in a shard, without reading its images.

    Raises:
        UsageError: If it cannot be read, is damaged or cut off, or a sample has no image or no label.
    """
    left_out: Counter[str] = Counter()
    rows: list[tuple[int, int, int | str]] = []
    try:
        with open(regular(Path(shard)), "rb") as file:
            modified = os.fstat(file.fileno()).st_mtime_ns  # before it is read: what changes it then is noticed later
            for sample in _samples(file, left_out):
                if sample.images or sample.labels:
                    image = _image_of(sample)
                    rows.append((image.offset_data, image.size, _label_of(sample, file)))
            size, ends = file.seek(0, os.SEEK_END), _ends_of(file)
    # tarfile raises almost anything on damaged headers
    except (tarfile.TarError, OSError, ValueError, OverflowError, EOFError, MemoryError, RecursionError) as error:
        packed = " (a compressed one has to be unpacked)" if shard.endswith(_PACKED) else ""
        reason = printable(str(error)) or "its headers are damaged"
        raise UsageError(f"{shard} cannot be read as a shard{packed}: {reason}") from error
    if not rows:
        raise UsageError(f"{shard} holds no images; expected members such as 0001.jpg and 0001.cls")
    offsets, sizes, labels = zip(*rows, strict=True)
    kinds = {type(label) for label in labels}
    if len(kinds) > 1:
        raise UsageError(f"{shard}: some of its labels are numbers, and some are names; they have to be of one kind")
    names = tuple(sorted(set(labels))) if kinds == {str} else None
    place = {name: number for number, name in enumerate(names or ())}
    return ShardIndex(
        size,
        modified,
        ends,
        np.array(offsets, np.int64),
        np.array(sizes, np.int64),
        np.array([place.get(label, label) for label in labels], np.int64),
        names,
        dict(left_out),
    )


def _samples(file: BinaryIO, left_out: Counter[str]) -> Iterator[_Sample]:
    """The samples of an open shard, whose members stand together."""
    from torchvision.datasets.folder import IMG_EXTENSIONS

    images = {ending.removeprefix(".") for ending in IMG_EXTENSIONS}
    sample: _Sample | None = None
    with tarfile.open(fileobj=file, mode="r:", tarinfo=_Member) as tar:
        for member in tar:
            if member.size < 0:  # looking for the next one would lead back
                raise ValueError(f"{member.name} has {member.size:,} bytes; the shard is damaged")
            folder, slash, name = member.name.rpartition("/")
            if member.isdir():
                continue
            if name.startswith("."):
                left_out[HIDDEN] += 1
                continue
            if not member.isreg() or member.issparse():
                raise ValueError(f"{member.name} is a link, a device or a sparse file, and has to be an ordinary one")
            start, _, ending = name.partition(".")
            key = folder + slash + start
            if sample is None or sample.key != key:
                if sample is not None:
                    yield sample
                sample = _Sample(key)
            if ending.lower() in images:
                sample.images.append(member)
            elif ending.lower() in ("cls", "json"):
                sample.labels[ending.lower()] = member
        _check_end(file, tar.offset)
    if sample is not None:
        yield sample


def _check_end(file: BinaryIO, end: int) -> None:
    """Make sure that an archive ends where reading it has ended; tarfile takes whatever it does not know for an end."""
    file.seek(end)
    block = file.read(_BLOCK)
    if len(block) < _BLOCK:
        raise tarfile.ReadError("it is cut off: the mark at its end is missing")
    while block:
        if block.strip(b"\0"):
            raise tarfile.ReadError(f"it is damaged at byte {end:,}, or several archives were put into one file")
        block = file.read(2**20)


def _image_of(sample: _Sample) -> tarfile.TarInfo:
    if len(sample.images) != 1:
        found = ", ".join(member.name for member in sample.images) or "none"
        raise ValueError(f"a sample is one image and its label, and {sample.key!r} has for images: {found}")
    image = sample.images[0]
    if not 0 < image.size <= _LARGEST_IMAGE:
        raise ValueError(f"{image.name} has {image.size:,} bytes, and may have 1 to {_LARGEST_IMAGE:,}")
    return image


def _label_of(sample: _Sample, file: BinaryIO) -> int | str:
    """The label of a sample: the number of a class, or its name."""
    member = sample.labels.get("cls") or sample.labels.get("json")
    if member is None:
        expected = f"expected {sample.key}.cls or {sample.key}.json next to its image"
        raise ValueError(f"sample {sample.key!r} has no label; {expected}")
    if member.size > _LONGEST_LABEL:
        raise ValueError(f"{member.name} has {member.size:,} bytes, and a label may have {_LONGEST_LABEL:,}")
    file.seek(member.offset_data)
    text = file.read(member.size).decode(errors="replace").strip()
    label = text if "cls" in sample.labels else _label_in_json(text)
    if isinstance(label, int) and not isinstance(label, bool):
        label = str(label)
    if not isinstance(label, str) or not _is_name(label) or _NEGATIVE.match(label):
        raise ValueError(
            f"{member.name} is no label: got {text[:80]!r}; expected the number of a class, from 0, or its name"
        )
    return int(label) if _NUMBER.fullmatch(label) else label


def _is_name(text: str) -> bool:
    """Whether a text can be a name, and be shown."""
    return 0 < len(text) <= 200 and text.isprintable()


def _label_in_json(text: str) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value.get("label", value.get("cls")) if isinstance(value, dict) else value
