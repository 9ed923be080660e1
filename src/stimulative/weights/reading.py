"""Reads weights from a file found anywhere, without running any code.

A file is what ``torch.save(state_dict, FILE)`` or safetensors wrote. The state dict may lie inside a checkpoint.
"""

from __future__ import annotations

import hashlib
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stimulative.errors import UsageError
from stimulative.naming import listed
from stimulative.runs import RECIPE

# Where checkpoints keep the state dict; "method" is where ours do, the model's beside that of auxiliary classifiers.
_NESTS = ("state_dict", "model", "model_state_dict", "net", "method")

_OURS = "network.model."

Weights = dict[str, Tensor]


def read_weights(file: str | Path) -> Weights:
    """Read a state dict, on the CPU, with the names that it has in the file.

    A pickle is read with ``weights_only``: whatever is not a tensor or a plain value is refused, and never run.

    Args:
        file: ``.pth``, ``.pt``, ``.th``, ``.bin``, ``.ckpt`` or ``.safetensors``; what is in it decides, not its name.

    Raises:
        UsageError: If it is not there, damaged, no file of weights, or holds more than tensors and plain values.
    """
    path = Path(file).expanduser()
    head = _head(path)
    try:
        content = _read_safetensors(path) if _is_safetensors(path, head) else _read_pickle(path)
    except Exception as error:  # the readers raise almost anything on files that are not theirs
        raise UsageError(f"{path} {_reason(path, head, error)}") from error
    weights = _state_dict_in(content)
    if weights is None:
        inside = f"a {type(content).__name__}"
        if isinstance(content, Mapping):
            inside += f" with {listed([str(key) for key in content])}" if content else " without anything in it"
        raise UsageError(
            f"{path} holds no state dict, neither bare nor under one of {', '.join(_NESTS[:4])}; got {inside}. "
            "Save one: torch.save(model.state_dict(), FILE)"
        )
    return weights


def sha256(file: str | Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with Path(file).expanduser().open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _head(path: Path) -> bytes:
    """The first bytes of a file."""
    if path.is_dir():
        if (path / RECIPE).exists():
            raise UsageError(f"{path} is a run directory, not a file of weights; give it as RUN, without weights=")
        raise UsageError(f"{path} is a folder, not a file of weights; give the file")
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except FileNotFoundError as error:
        raise UsageError(f"there is no file {path}; give the path of a file of weights") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    if not head:
        raise UsageError(f"{path} is empty; copy or download it again")
    return head


def _is_safetensors(path: Path, head: bytes) -> bool:
    if head[:2] in (b"PK", b"\x80\x02"):
        return False
    header = int.from_bytes(head[:8], "little")
    return path.suffix == ".safetensors" or (head[8:9] == b"{" and header < path.stat().st_size)


def _read_safetensors(path: Path) -> Any:
    from safetensors.torch import load_file

    return load_file(path)


def _read_pickle(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about formats that are refused, with a message, in any case
        with path.open("rb") as file:  # of a path, torch would believe the ending
            return torch.load(file, map_location="cpu", weights_only=True)


def _reason(path: Path, head: bytes, error: Exception) -> str:
    """What is wrong with a file that could not be read."""
    foreign = _foreign_objects(path, error)
    if any(name.startswith("torch.nn.modules.") for name in foreign):
        return (
            "is a whole pickled model, and reading that would run code. Where you trust it, save its weights alone: "
            "torch.save(model.state_dict(), FILE)"
        )
    if foreign:
        return (
            f"holds more than tensors and plain values: {listed(foreign)}. Reading that could run code, so it was "
            "refused. If you trust its source, save the state dict alone: torch.save(model.state_dict(), FILE)"
        )
    if head.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, not the file that it stands for; fetch that: git lfs pull"
    if "TorchScript" in str(error):
        return "is a TorchScript program; save its weights: torch.save(model.state_dict(), FILE)"
    if _is_text(head):
        return "is a text, not a file of weights; was a web page saved in place of the file?"
    damaged = ("EOF", "corrupt", "deserializing header", "truncated", "central directory")
    if isinstance(error, EOFError) or any(word in str(error) for word in damaged):
        return "is truncated or damaged; copy or download it again"
    return "is not a file of weights that torch.save or safetensors wrote, or is damaged"


def _foreign_objects(path: Path, error: Exception) -> list[str]:
    """The names of what a pickle would have called beside what makes tensors."""
    if zipfile.is_zipfile(path):
        try:
            found = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        except Exception:  # damaged, or of another kind
            found = []
        if found:
            return sorted(found)
    return re.findall(r"GLOBAL ([\w.]+)", str(error))[:1]


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:
            return False
        text = head[: error.start].decode("utf-8")  # cut within a letter
    return all(letter.isprintable() or letter.isspace() for letter in text)


def _state_dict_in(content: Any, deepest: int = 3) -> Weights | None:
    if not isinstance(content, Mapping):
        return None
    for nest in _NESTS if deepest else ():
        inner = _state_dict_in(content.get(nest), deepest - 1)
        if inner is not None:
            ours = {key: value for key, value in inner.items() if nest == "method" and key.startswith(_OURS)}
            return ours or inner
    return {str(key): value for key, value in content.items() if _has_values(value)} or None


def _has_values(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout is torch.strided and not value.is_meta
