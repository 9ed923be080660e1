"""Writing files so that a crash leaves the old one or the new one, and reading JSON."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
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


class Damaged(UsageError):
    """A file is not what this library wrote."""


_SEAL = "sha256"
_BLANK = "0" * 64


def seal(path: Path) -> None:
    """Write into a safetensors file that was saved with ``blank_seal`` what all of it hashes to.

    The hash is that of the file with 64 zeros in its own place.
    """
    at = _seal_at(path)
    if at is None:
        raise ValueError(f"{path} has no place for a seal")
    found = _hash_but(path, at)
    with path.open("r+b") as file:
        file.seek(at)
        file.write(found.encode())


def blank_seal() -> dict[str, str]:
    """What the metadata of a file that is to be sealed have besides."""
    return {_SEAL: _BLANK}


def check_seal(path: Path) -> bool:
    """Make sure that a sealed safetensors file is as it was written.

    Returns:
        Whether it is sealed.

    Raises:
        Damaged: If it has changed since.
    """
    at = _seal_at(path)
    if at is None:
        return False
    with path.open("rb") as file:
        file.seek(at)
        said = file.read(64)
    if said != _hash_but(path, at).encode():
        raise Damaged(f"{path} is damaged, or was changed since it was written: its checksum is another one")
    return True


def _seal_at(path: Path) -> int | None:
    """Where a safetensors file has its seal."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(min(length, 100_000_000))
    match = re.search(rb'(?<!\\)"' + _SEAL.encode() + rb'":"([0-9a-f]{64})"', header)  # not in another JSON inside
    return None if match is None else 8 + match.start(1)


def _hash_but(path: Path, at: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        digest.update(file.read(at))
        file.seek(64, os.SEEK_CUR)
        digest.update(_BLANK.encode())
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def save_model(model: nn.Module, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a model's parameters and buffers as safetensors, into a path of ``replacing``."""
    from safetensors.torch import save_model as save

    save(model, str(path), metadata=dict(metadata or {}) | blank_seal())
    seal(path)


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
