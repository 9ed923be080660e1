"""One process at a time writes into the directory of a run or a study.

A claim is a lock of the operating system on ``.lock`` in the directory, which ends with the process that holds it,
however that ends. Who holds it stands beside it in ``.lock.json``, for messages. On network file systems it holds
between machines where these pass locks on to the server (NFS from version 4, or 3 with its lock manager; Lustre mounted
with ``flock``; CephFS; SMB); where a file system has no locks, filelock makes the file itself the lock, and says so.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from stimulative import files
from stimulative.errors import UsageError
from stimulative.ranks import world_of_process
from stimulative.records import Record, RecordError

_LOCK = ".lock"
_HOLDER = ".lock.json"
_PATIENCE = 0.3  # seconds; whoever looks whether a directory is in use holds it for a moment

_held: dict[Path, int] = {}
"""What this process holds, and the thread that does."""


@dataclass(frozen=True)
class Holder(Record):
    """The process that holds a directory.

    Args:
        host: The name of its machine.
        process: Its number there.
        since: When it began, in ISO 8601.
        doing: What it does there, such as ``training``.
        command: Its words.
    """

    host: str
    process: int
    since: str
    doing: str
    command: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.doing} since {self.since} by process {self.process} on {self.host} ({' '.join(self.command)})"


@contextmanager
def claimed(directory: Path, doing: str) -> Iterator[None]:
    """Hold a directory; it is made if there is none, and vanishes then if it is still empty in the end.

    Within a thread that holds it already this does nothing. Of several processes that train together, the first holds
    it.

    Args:
        directory: The directory.
        doing: What for, for others' messages, such as ``training``.

    Raises:
        UsageError: If another process or thread holds it, or it cannot be written to.
    """
    from filelock import FileLock, Timeout

    place = files.check_path(directory).resolve()
    if _held.get(place) == threading.get_ident() or not is_first_process():
        yield
        return
    files.inside(place, _LOCK)
    made = not place.exists()
    files.make_directory(directory)
    lock = FileLock(place / _LOCK, thread_local=False)
    try:
        lock.acquire(timeout=_PATIENCE)
    except Timeout:
        who = _holder(place)
        raise UsageError(f"{directory} is in use: {who or 'by another process'}. Wait for it, or end it") from None
    except OSError as error:
        raise UsageError(
            f"cannot lock {place / _LOCK}: {error.strerror}; choose another directory with out="
        ) from error
    try:
        _held[place] = threading.get_ident()
        files.remove_left_behind(place)
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        holder = Holder(platform.node(), os.getpid(), now, doing, tuple(sys.argv))
        files.write_json(place / _HOLDER, holder.to_mapping())
        yield
    finally:
        _held.pop(place, None)
        try:
            _tidy(place, made)
        finally:
            lock.release()


def is_first_process() -> bool:
    """Whether this is the first of the processes that train together, or the only one: it writes and speaks for all.

    Raises:
        UsageError: If the variables of a launcher are contradictory.
    """
    return world_of_process().rank == 0


def _tidy(place: Path, made: bool) -> None:
    """Take away who holds a directory, and the directory if it was made for this and is empty."""
    with suppress(OSError):
        (place / _HOLDER).unlink(missing_ok=True)
        if made and {path.name for path in place.iterdir()} <= {_LOCK}:
            (place / _LOCK).unlink(missing_ok=True)
            place.rmdir()


def in_use(directory: Path) -> str | None:
    """Which other process holds a directory, in words; None if none does, or that cannot be found out."""
    from filelock import FileLock, Timeout

    place = directory.resolve()
    if place in _held or not (place / _LOCK).exists() or (place / _LOCK).is_symlink():
        return None
    lock = FileLock(place / _LOCK, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        return _holder(place) or "by another process"
    except OSError:
        return None
    lock.release()
    return None


def _holder(place: Path) -> str | None:
    try:
        content: Any = json.loads((place / _HOLDER).read_text(encoding="utf-8"))
        return str(Holder.from_mapping(content))
    except (OSError, ValueError, RecordError):
        return None
