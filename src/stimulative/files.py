"""Writing files so that a crash leaves the old one or the new one, and reading JSON."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import re
import secrets
import stat
import sys
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stimulative.errors import UsageError

if TYPE_CHECKING:
    from torch import nn


class CannotWrite(UsageError):
    """The disk is full, or does not let itself be written to. What was there before is whole."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"cannot write {path}: {reason}. Nothing was left behind; choose another place with out=")
        self.path, self.reason = path, reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.reason)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends well, and vanishes when not.

    The name of the temporary file is drawn, and the file made anew, so that no link that lies there is followed; a link
    in the place of ``path`` is replaced itself.

    Raises:
        CannotWrite: If the disk refuses.
    """
    if not path.name or (os.path.isdir(path) and not path.is_symlink()):
        raise CannotWrite(path, "it is a directory")
    name = os.fsdecode(os.fsencode(path.name)[:100].decode(errors="ignore").encode())
    temporary = path.with_name(f".{name}.{_this_machine()}.{os.getpid()}.{secrets.token_hex(8)}.tmp")
    try:
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        yield temporary
        synchronise(temporary)
        temporary.chmod(0o666 & ~_umask())  # safetensors makes files that nobody else can read
        temporary.replace(path)
    except OSError as error:
        raise CannotWrite(path, error.strerror or str(error)) from error
    except Exception as error:
        reason = _disk_reason(error)
        if reason is None:
            raise
        raise CannotWrite(path, reason) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def synchronise(path: Path) -> None:
    """Have what was written into a file reach the disk."""
    with path.open("rb") as written:
        os.fsync(written.fileno())


def keep_as(path: Path, name: Path) -> None:
    """Give a file a second name, in place of whatever has it; where the file system has no links, the only one."""
    temporary = name.with_name(f".{name.name}.{_this_machine()}.{os.getpid()}.{secrets.token_hex(8)}.tmp")
    try:
        os.link(path, temporary)
    except OSError:
        path.replace(name)
        return
    temporary.replace(name)


def _disk_reason(error: Exception) -> str | None:
    """What the disk refused, where an error is what safetensors or torch.save make of an OSError; else None."""
    if type(error).__name__ == "SafetensorError":
        return str(error)
    if isinstance(error, RuntimeError) and re.search("PytorchStreamWriter|iostream|inline_container", str(error)):
        return "PyTorch could not write all of it; is there room on the disk?"
    return None


def remove_left_behind(directory: Path) -> None:
    """Remove the temporary files of processes of this machine that were killed."""
    for path in directory.glob(".*.tmp"):
        match = re.fullmatch(r"\..*\.([0-9a-f]{8})\.(\d+)\.[0-9a-f]{16}\.tmp", path.name)
        if match is not None and match[1] == _this_machine() and not _is_alive(int(match[2])):
            with suppress(OSError):
                path.unlink()


def _this_machine() -> str:
    """A short name of this machine, or container: its processes are numbered by it."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def _is_alive(process: int) -> bool:
    """Whether a process lives; on Windows, where asking would end it, nobody knows."""
    if sys.platform == "win32":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def inside(directory: Path, name: str) -> Path:
    """A place in a directory that is to be written to.

    Raises:
        UsageError: If it is a link, which may lead out of the directory.
    """
    path = check_path(directory / name)
    if path.is_symlink():
        raise UsageError(
            f"{path} is a link, and what is written there would land in {os.path.realpath(path)}; remove the link"
        )
    return path


def _umask() -> int:
    """The permissions that new files of this process do not get."""
    mask = os.umask(0)  # reading it is setting it
    os.umask(mask)
    return mask


def check_path(path: Path) -> Path:
    """A path that a file system can have; others raise errors of all kinds, wherever they are used first.

    Raises:
        UsageError: If it is none.
    """
    try:
        longest, length = max((len(os.fsencode(part)) for part in path.parts), default=0), len(os.fsencode(path))
    except UnicodeEncodeError as error:
        raise UsageError(f"{str(path)!r:.80} is no path: {error.reason}") from error
    if "\0" in str(path):
        raise UsageError(f"{str(path)!r:.80} is no path: it has a character of code 0")
    if longest > 255 or length > 4000:
        raise UsageError(f"{str(path)[:80]}… is no path: a name has 255 bytes at most, and a path 4,000")
    return path


def regular(path: Path, *, most: int | None = None) -> Path:
    """A path of a file that is to be read.

    Args:
        path: The path.
        most: The most bytes that it may have.

    Raises:
        OSError: If it is that of a pipe or a device, which may have no end, and on which reading may wait for ever; or
            has more bytes.
    """
    found = path.stat()
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        raise OSError(errno.EINVAL, "it is a pipe or a device, and no file", str(path))
    if most is not None and found.st_size > most:
        raise OSError(errno.EFBIG, f"it has {found.st_size:,} bytes, and may have {most:,}", str(path))
    return path


def user_path(text: str | Path) -> Path:
    """A path that a user wrote, in which ``~`` is the home directory.

    Raises:
        UsageError: If it is none.
    """
    path = check_path(Path(text))
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise UsageError(f"{path} is no path: {error}") from error


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """The text of a JSON file, as all of them are laid out."""
    return json.dumps(value, indent=2) + "\n"


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        UsageError: If it is missing or is not JSON.
    """
    try:
        return json.loads(regular(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not JSON, or too deep: {error}") from error


class Damaged(UsageError):
    """A file is not what this library wrote."""


def check_archive(path: Path) -> None:
    """Compare the records of a file of ``torch.save`` with the checksums in it, which PyTorch does not.

    Raises:
        Damaged: If one is another.
        zipfile.BadZipFile: If it is no archive.
    """
    with zipfile.ZipFile(path) as archive:
        if (broken := archive.testzip()) is not None:
            raise Damaged(f"{path} is damaged: the checksum of its record {broken!r} is another one")


_SEAL = "stimulative.sha256"
_SEALED = "stimulative.sealed"
"""Says that there is a seal, so that damage to the seal's own name is no way to be without one."""
_BLANK = "0" * 64
_LONGEST_HEADER = 100_000_000
"""Bytes of the header of a safetensors file, as the format has it."""


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
    return {_SEAL: _BLANK, _SEALED: "yes"}


def check_seal(path: Path) -> bool:
    """Make sure that a sealed safetensors file is as it was written.

    Returns:
        Whether it is sealed.

    Raises:
        Damaged: If it has changed since.
    """
    at = _seal_at(path)
    if at is None:
        header = _header_of(path)
        if header.startswith(b'{"__metadata__":{') and _SEALED.encode() in header:  # as safetensors writes headers
            raise Damaged(f"{path} is damaged: its checksum is gone")
        return False
    with path.open("rb") as file:
        file.seek(at)
        said = file.read(64)
    if said != _hash_but(path, at).encode():
        raise Damaged(f"{path} is damaged, or was changed since it was written: its checksum is another one")
    return True


def metadata_of(path: Path) -> dict[str, str]:
    """What the header of a safetensors file says beside its tensors; nothing where it is none.

    Raises:
        UsageError: If it cannot be read.
    """
    try:
        with regular(path).open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if length < _LONGEST_HEADER else {}
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError):
        return {}
    said = header.get("__metadata__") if isinstance(header, dict) else None
    return {str(key): str(value) for key, value in said.items()} if isinstance(said, dict) else {}


def hash_of(text: str) -> str:
    """The SHA-256 of a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _seal_at(path: Path) -> int | None:
    """Where a safetensors file has its seal."""
    seal = re.escape(_SEAL).encode()
    match = re.search(rb'(?<!\\)"' + seal + rb'":"([0-9a-f]{64})"', _header_of(path))  # not in another JSON inside
    return None if match is None else 8 + match.start(1)


def _header_of(path: Path) -> bytes:
    with regular(path).open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return file.read(min(length, _LONGEST_HEADER))


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
        if path.exists() and not path.is_dir():
            raise _no_directory(path, "it is a file")
        path.mkdir(parents=True, exist_ok=True)
        with replacing(path / ".writable") as temporary:
            temporary.touch()
        (path / ".writable").unlink()
    except CannotWrite as error:
        raise _no_directory(path, str(error.__cause__)) from error
    except OSError as error:
        raise _no_directory(path, error.strerror or str(error)) from error


def _no_directory(path: Path, reason: str) -> UsageError:
    reason = re.sub(r"^\[Errno \d+\] |: '.*'$", "", reason)
    return UsageError(f"cannot write to {path}: {reason}; choose another directory with out=")
