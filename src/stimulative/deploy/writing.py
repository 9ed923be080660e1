"""Writing files that are deployed: whole or not at all, and never over another one unasked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stimulative import files
from stimulative.errors import UsageError

KEY = "stimulative"
"""The key of the description in the header of safetensors files."""


def check_new(path: Path, *, force: bool) -> None:
    """Make sure that a file can be written, before the work that fills it.

    Raises:
        UsageError: If it exists and is not to be replaced, or its folder cannot be written to.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder; give a file with out=")
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is a device or a pipe, not a file that could be replaced; give a file with out=")
    if path.exists() and not force:
        raise UsageError(f"{path} exists; replace it with force=True, or choose another file with out=")
    files.make_directory(path.parent)


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A temporary path that becomes ``path`` when the block ends well; after an error nothing of it is left.

    Raises:
        UsageError: If the disk is full, or does not let itself be written to.
    """
    try:
        with files.replacing(path) as temporary:
            yield temporary
    except OSError as error:
        raise _cannot(path, error.strerror or str(error)) from error
    except Exception as error:  # safetensors has an exception of its own for what the disk refuses
        if type(error).__name__ != "SafetensorError":
            raise
        raise _cannot(path, str(error)) from error


def _cannot(path: Path, reason: str) -> UsageError:
    return UsageError(f"cannot write {path}: {reason}. Nothing was left behind; choose another place with out=")
