"""``checksums.json``: what the files of a run hash to, so that damage is seen that their formats do not show.

A file's new sum is written before the file takes its place, beside the last ones; so whenever the machine stops, what
is there has one of them. Files without a sum, of runs of older versions, are taken as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from stimulative import files
from stimulative.errors import UsageError

CHECKSUMS = "checksums.json"
_KEPT = 4


def sum_of(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
        known[new] = [*known.get(old, ()), *known.get(new, ())][:_KEPT]
    known[name] = [sum_of(path), *known.get(name, ())][:_KEPT]
    files.write_json(directory / CHECKSUMS, known)


def sums_in(directory: Path) -> dict[str, list[str]]:
    """The sums of files by their names, the newest first; none where none were written."""
    path = directory / CHECKSUMS
    if not path.exists():
        return {}
    content = files.read_json(path)
    if not isinstance(content, dict) or not all(_are_sums(value) for value in content.values()):
        raise UsageError(f"{path} is not as stimulative writes it; remove it, and nothing is compared with it")
    return content


def check_sum(path: Path) -> bool:
    """Make sure that a file is as it was written.

    Returns:
        Whether that is known.

    Raises:
        files.Damaged: If it is not.
    """
    known = sums_in(path.parent).get(path.name)
    if known is None:
        return False
    if sum_of(path) not in known:
        raise files.Damaged(f"{path} is damaged, or was changed since it was written: its checksum is another one")
    return True


def _are_sums(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)
