"""``checksums.json``: what the files of a run or a study hash to, so that damage is seen where formats do not show it.

A file's new sum is written before the file takes its place, beside the last ones; so whenever the machine stops, what
is there has one of them. Files without a sum, of runs of older versions, are taken as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from stimulative import files
from stimulative.errors import UsageError

CHECKSUMS = "checksums.json"
_KEPT = 4
_LOOKS = 3
"""How often a file is looked at before it is called damaged: another one may take its place between two looks."""


def sum_of(path: Path) -> str:
    """The SHA-256 of a file."""
    with files.regular(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def written(path: Path, *, keep_as: str | None = None) -> Iterator[Path]:
    """A temporary path that takes the place of a file when the block ends well, with its checksum.

    Args:
        path: The file.
        keep_as: A name under which the file that is there now is kept beside it.
    """
    kept = keep_as if keep_as is not None and path.exists() else None
    with files.replacing(path) as temporary:
        yield temporary
        files.synchronise(temporary)  # what the disk refuses, it refuses before anything else is touched
        note(path.parent, path.name, temporary, beside=None if kept is None else {kept: path.name})
        if kept is not None:
            files.keep_as(path, path.with_name(kept))


def write_summed(path: Path, text: str) -> None:
    """Write a text file, whole or not at all, with its checksum."""
    with written(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def note(directory: Path, name: str, path: Path, *, beside: Mapping[str, str] | None = None) -> None:
    """Write down what a file is going to be.

    Args:
        directory: The directory.
        name: The name that it will have there.
        path: Where it is now.
        beside: By the name that another file there will have as well, the name that it has now.
    """
    known = sums_in(directory)
    for new, old in (beside or {}).items():
        known[new] = _newest(known.get(old, ()), known.get(new, ()))
    known[name] = _newest([sum_of(path)], known.get(name, ()))
    files.write_json(directory / CHECKSUMS, known)


def sums_in(directory: Path) -> dict[str, list[str]]:
    """The sums of files by their names, the newest first; none where none were written."""
    path = directory / CHECKSUMS
    if not path.exists():
        return {}
    try:
        content = files.read_json(path)
    except UsageError as error:
        raise UsageError(f"{error}. Remove it, and nothing is compared with it") from error
    if not isinstance(content, dict) or not all(_are_sums(value) for value in content.values()):
        raise UsageError(f"{path} is not as stimulative writes it; remove it, and nothing is compared with it")
    return content


def check_sum(path: Path) -> bool:
    """Make sure that a file is as it was written.

    Returns:
        Whether that is known.

    Raises:
        files.Damaged: If it is not.
        UsageError: If it cannot be read.
    """
    for _ in range(_LOOKS):
        known = sums_in(path.parent).get(path.name)
        if known is None:
            return False
        try:
            if sum_of(path) in known:
                return True
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}") from error
    raise files.Damaged(f"{path} is damaged, or was changed since it was written: its checksum is another one")


def check_read(path: Path, remedy: str) -> None:
    """Make sure that a file that could be read is also the one that was written.

    Args:
        path: The file.
        remedy: What to do about it, beside copying it again.

    Raises:
        UsageError: If it is not.
    """
    try:
        check_sum(path)
    except files.Damaged as error:
        raise UsageError(
            f"{error}. Copy it again, or {remedy}; if you changed it on purpose, remove its name from {CHECKSUMS}"
        ) from error


def _newest(new: Sequence[str], old: Sequence[str]) -> list[str]:
    """The last sums, each once: writing the same again must not push out that of the file that is there."""
    return [*dict.fromkeys([*new, *old])][:_KEPT]


def _are_sums(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)
