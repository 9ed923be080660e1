"""Whether this user wrote a file: a mark beside it that takes the user's own key to make.

The key is a file that only the user can read, in the user's directory for the state of programs. It is made at first
use. Who sends a file that names code does not have the key, so a file without the right mark is somebody else's, or was
changed since it was marked. A directory that is copied or moved keeps its marks; another user, and the same user with
another home directory, cannot check them.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

import platformdirs

_BYTES = 32


def mark(text: str) -> str | None:
    """The mark of a text that this user writes; None where no key can be kept."""
    key = _read_key() or _made_key()
    return None if key is None else _digest(key, text)


def is_ours(text: str, said: object) -> bool:
    """Whether a mark is that of a text which this user wrote."""
    key = _read_key()
    return (
        key is not None
        and isinstance(said, str)
        and hmac.compare_digest(_digest(key, text).encode(), said.encode("utf-8", "surrogatepass"))
    )


def _digest(key: bytes, text: str) -> str:
    return hmac.new(key, text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def _path() -> Path | None:
    """Where the key is; None where there is no home."""
    try:
        path = platformdirs.user_state_path("stimulative", appauthor=False) / "key"
    except RuntimeError:
        return None
    return path if path.is_absolute() else None


def _read_key() -> bytes | None:
    """The user's key; None where there is none, or one that others could have read or made."""
    path = _path()
    if path is None:
        return None
    try:
        file = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        return None
    with os.fdopen(file, "rb") as opened:
        found = os.fstat(opened.fileno())
        if hasattr(os, "geteuid") and (found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077):
            return None
        key = opened.read(_BYTES + 1)
    return key if len(key) == _BYTES else None


def _made_key() -> bytes | None:
    """A new key, or that of a process which was faster; None where none can be kept."""
    path = _path()
    if path is None:
        return None
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = path.with_name(f".key.{secrets.token_hex(8)}")
        _write(temporary)
        try:
            os.link(temporary, path)  # unlike a rename, it leaves a key alone that is there
        finally:
            temporary.unlink()
    except FileExistsError:
        pass
    except OSError:  # a file system without links
        with suppress(OSError):
            _write(path)
    return _read_key()


def _write(path: Path) -> None:
    """Write a key into a file that is new."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as opened:
        opened.write(secrets.token_bytes(_BYTES))
        opened.flush()
        os.fsync(opened.fileno())
