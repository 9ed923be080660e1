"""Writing files so that a crash leaves the old one or the new one, and reading JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from stimulative.errors import UsageError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends well, and vanishes when not."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o666 & ~_umask())  # safetensors makes files that nobody else can read
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    """The permissions that new files of this process do not get."""
    mask = os.umask(0)  # reading it is setting it
    os.umask(mask)
    return mask


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        UsageError: If it is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{path} is not JSON: {error}") from error


def save_model(model: nn.Module, path: Path) -> None:
    """Write a model's parameters and buffers as safetensors."""
    from safetensors.torch import save_model as save

    with replacing(path) as temporary:
        save(model, str(temporary))


def make_directory(path: Path) -> None:
    """Create a directory to write to.

    Raises:
        UsageError: If that is impossible.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with replacing(path / ".writable") as temporary:
            temporary.touch()
        (path / ".writable").unlink()
    except OSError as error:
        raise UsageError(f"cannot write to {path}: {error.strerror}; choose another directory with out=") from error
