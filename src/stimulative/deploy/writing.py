"""Writing files that are deployed: whole or not at all, and never over another one unasked."""

from __future__ import annotations

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
