"""Reads weights from a file found anywhere, without running any code.

A file is what ``torch.save(state_dict, FILE)`` or safetensors wrote. The state dict may lie inside a checkpoint, which
may hold several, as of averaged weights next to those that were averaged.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stimulative.errors import UsageError
from stimulative.files import Damaged, check_archive, check_seal, regular
from stimulative.naming import did_you_mean, listed
from stimulative.runs import RECIPE, check_sum
from stimulative.weights.place import WeightsPlace

Weights = dict[str, Tensor]


def read_weights(file: str | Path) -> Weights:
    """Read the tensors of a file, on the CPU.

    Each is called by the path to it: the keys of the dictionaries that it lies in and its name, joined by dots, as in
    ``state_dict.conv1.weight``. The state of optimisers is left out.

    A pickle is read with ``weights_only``: whatever is not a tensor, a plain value (a number of NumPy and a path are
    some) or a namespace of these is refused, and never run.

    Args:
        file: ``.pth``, ``.pt``, ``.th``, ``.bin``, ``.ckpt`` or ``.safetensors``; what is in it decides, not its name.
            ``FILE#KEY`` is the part of it whose paths begin with ``KEY``; they go on from there, so that
            ``read_weights("best.pth#model_ema")`` is the state dict under ``model_ema``.

    Raises:
        UsageError: If it is not there, damaged, no file of weights, holds more than tensors and plain values, or has no
            such part.
    """
    place = WeightsPlace.of(file)
    path = place.path
    head = _head(path)
    try:
        content = _read_safetensors(path) if _is_safetensors(path, head) else _read_pickle(path)
    except Damaged as error:
        raise UsageError(f"{error}. Copy or write it again") from error
    except Exception as error:  # the readers raise almost anything on files that are not theirs
        raise UsageError(f"{path} {_reason(path, head, error)}") from error
    weights = dict(_tensors_in(content))
    if not weights:
        inside = f"a {type(content).__name__}"
        if isinstance(content, Mapping):
            inside += f" with {listed([str(key) for key in content])}" if content else " without anything in it"
        raise UsageError(f"{path} holds no state dict; got {inside}. Save one: torch.save(model.state_dict(), FILE)")
    return _below(place, weights) if place.key else weights


def sha256(file: str | Path) -> str:
    """The SHA-256 of a file, in hexadecimal; of ``FILE#KEY`` that of the whole file."""
    with WeightsPlace.of(file).path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _head(path: Path) -> bytes:
    """The first bytes of a file."""
    if path.is_dir():
        if (path / RECIPE).exists():
            raise UsageError(f"{path} is a run directory, not a file of weights; give it as RUN, without weights=")
        raise UsageError(f"{path} is a folder, not a file of weights; give the file")
    try:
        with regular(path).open("rb") as file:
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

    check_seal(path)
    return load_file(path)


def _read_pickle(path: Path) -> Any:
    check_sum(path)  # of a run's checkpoint
    if zipfile.is_zipfile(path):
        check_archive(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about formats that are refused, with a message, in any case
        with path.open("rb") as file, _plain_values_allowed():
            # of a path, torch would believe the ending
            return torch.load(file, map_location="cpu", weights_only=True)


def _plain_values_allowed() -> torch.serialization.safe_globals:
    """While it is open, what training scripts save beside weights is read, where nothing of it can run code.

    These are their arguments in a namespace, paths among them, and results that are numbers of NumPy.
    """
    scalar: Any = np.float64(0).__reduce__()[0]
    names = "numpy._core.multiarray.scalar", "numpy.core.multiarray.scalar"  # since NumPy 2, and before
    kinds = {type(np.dtype(kind)) for kind in "?bhilqBHILQefd"}
    paths = [(PurePosixPath, f"{module}.PosixPath") for module in ("pathlib", "pathlib._local")]  # since 3.13
    paths += [(PureWindowsPath, f"{module}.WindowsPath") for module in ("pathlib", "pathlib._local")]
    return torch.serialization.safe_globals(
        [argparse.Namespace, np.dtype, *kinds, *((scalar, name) for name in names), *paths]
    )


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
            with _plain_values_allowed():
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


def _tensors_in(content: Any, path: tuple[str, ...] = (), around: tuple[int, ...] = ()) -> Iterator[tuple[str, Tensor]]:
    """Every tensor by the path to it.

    Args:
        content: What was read.
        path: The keys that lead to it.
        around: The dictionaries that it lies in, since one may hold itself.
    """
    if isinstance(content, Tensor):
        if path and content.layout is torch.strided and not content.is_meta:
            yield ".".join(path), content
    elif isinstance(content, Mapping) and id(content) not in around and not _is_of_optimizer(content):
        for key, value in content.items():
            yield from _tensors_in(value, (*path, str(key)), (*around, id(content)))


def _is_of_optimizer(content: Mapping[Any, Any]) -> bool:
    """Whether a dictionary is the state of an optimiser, whose averages may have the names and shapes of parameters."""
    return "param_groups" in content and "state" in content


def _below(place: WeightsPlace, weights: Weights) -> Weights:
    """What lies below the key of a place, by the path from there."""
    start = f"{place.key}."
    found = {name.removeprefix(start): value for name, value in weights.items() if name.startswith(start)}
    if not found:
        known = list(dict.fromkeys(name.partition(".")[0] for name in weights))
        raise UsageError(
            f"{place.path} holds no weights under {listed([place.key])!r}{did_you_mean(place.key, known)}; it holds "
            f"some under {listed(known)}"
        )
    return found
