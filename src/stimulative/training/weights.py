"""Weights from a file found anywhere: read without running any code, and put into a model that they fit.

A file is what ``torch.save(state_dict, FILE)`` or safetensors wrote. The state dict may lie inside a checkpoint, and
its names may carry what wrappers put before them (``module.`` of DataParallel, ``_orig_mod.`` of torch.compile,
``model.`` of Lightning).
"""

from __future__ import annotations

import hashlib
import re
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from stimulative.errors import UsageError
from stimulative.training.files import RECIPE

# Where checkpoints keep the state dict; "method" is where ours do, the model's beside that of auxiliary classifiers.
_NESTS = ("state_dict", "model", "model_state_dict", "net", "method")
_OURS = "network.model."
_PREFIXES = ("module.", "_orig_mod.", "model.", "network.")
# The names of torchvision's DenseNets before PyTorch 0.4.1, which its published files still have.
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(?=[12]\.)")
_SHOWN = 8

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


def load_weights(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    *,
    file: str | Path,
    name: str,
    data: str = "the data",
    classes: int | None = None,
    channels: int | None = None,
    new_head: bool = False,
    headless: Sequence[str] = (),
) -> Loaded:
    """Fill a model with weights. Prefixes that all names share are taken off where the model has none.

    A missing ``num_batches_tracked`` is left as it is: evaluation does not read it.

    Args:
        model: The model.
        weights: What ``read_weights`` gave.
        file: Where they come from, for messages.
        name: The model's name, for messages.
        data: The data set's name, for messages.
        classes: How many classes the model was built for, to tell a misfit of these from one of the architecture.
        channels: Likewise the channels of its images.
        new_head: Leave what differs in the number of classes alone as it is in the model, instead of raising.
        headless: The names of modules of the model that the file may lack, and that stay as they are then.

    Returns:
        What was loaded, and what was left as it is.

    Raises:
        UsageError: If names or shapes do not fit, all of them listed, or a value is not a finite number. The model is
            unchanged then.
    """
    own: dict[str, Tensor] = {key: value for key, value in model.state_dict().items() if isinstance(value, Tensor)}
    fitting = max(_renamed(weights), key=lambda variant: len(variant.keys() & own.keys()))
    missing = [key for key in own if key not in fitting and not key.endswith("num_batches_tracked")]
    missing = _without_shared(missing, own, fitting)
    unexpected = [key for key in fitting if key not in own and not key.endswith("num_batches_tracked")]
    misshaped = [key for key in own if key in fitting and own[key].shape != fitting[key].shape]
    absent = [key for key in missing if key.startswith(tuple(f"{module}." for module in headless))]
    missing = [key for key in missing if key not in absent]
    shapes = {key: (tuple(fitting[key].shape), tuple(own[key].shape)) for key in misshaped}
    theirs = None
    if misshaped and not missing and not unexpected:
        theirs = _classes_in(shapes.values(), classes) if new_head else None
        explained = _explained(list(shapes.values()), file, data, classes, channels, new_head=new_head)
        if theirs is None and explained is not None:
            raise UsageError(explained)
    if theirs is not None:
        absent, misshaped = [*absent, *misshaped], []
        fitting = {key: value for key, value in fitting.items() if key not in shapes}
    new = tuple(key for key in own if key in absent)
    if missing or unexpected or misshaped:
        lines = [f"the weights in {file} do not fit the model {name}:"]
        if missing:
            lines.append(f"  missing in the file ({len(missing)}): {listed(missing)}")
        if unexpected:
            lines.append(f"  unexpected in the file ({len(unexpected)}): {listed(unexpected)}")
        if misshaped:
            described = [f"{key} {_shape(fitting[key])}, the model has {_shape(own[key])}" for key in misshaped]
            lines.append(f"  of another shape in the file ({len(misshaped)}): {listed(described, '; ')}")
        lines.append("Give the architecture that they were trained with: its name, and its arguments if it has any")
        raise UsageError("\n".join(lines))
    parameters = {key for key, _ in model.named_parameters(remove_duplicate=False)}
    broken = [key for key, value in fitting.items() if _broken(value, key in parameters)]
    if broken:
        raise UsageError(
            f"the weights in {file} are not all finite numbers: {listed(broken)}. Training has diverged, or the file "
            "is damaged; take an earlier checkpoint"
        )
    model.load_state_dict(fitting, strict=False)
    counted = [key for key in own if not key.endswith("num_batches_tracked")]
    return Loaded(len(counted) - len(new), len(counted), new, theirs)


class Loaded(NamedTuple):
    """What became of a model's tensors when weights were loaded; counters of batches are not counted.

    Args:
        loaded: How many were filled.
        tensors: How many there are.
        new: The names of those that were left as they are: a head for other classes.
        classes: How many classes the weights are of, where these differ from the model's.
    """

    loaded: int
    tensors: int
    new: tuple[str, ...]
    classes: int | None = None


def sha256(file: str | Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with Path(file).expanduser().open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _head(path: Path) -> bytes:
    """The first bytes of a file."""
    if path.is_dir():
        if (path / RECIPE).exists():
            raise UsageError(f"{path} is a run directory, not a file of weights; give it as RUN, without --weights")
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


def _renamed(weights: Mapping[str, Tensor]) -> Iterator[Weights]:
    """The weights as they are named, then without each prefix that all names share, then with today's names."""
    current = dict(weights)
    yield current
    while prefix := next((p for p in _PREFIXES if all(key.startswith(p) for key in current)), None):
        current = {key.removeprefix(prefix): value for key, value in current.items()}
        yield current
    yield {_OLD_DENSENET.sub(r"\1", key): value for key, value in current.items()}


def _without_shared(missing: Sequence[str], own: Weights, given: Weights) -> list[str]:
    """Without names of parameters that the file has under another name: safetensors keeps shared ones once."""
    storages = {(own[key].data_ptr(), own[key].shape) for key in own if key in given and own[key].numel()}
    return [key for key in missing if (own[key].data_ptr(), own[key].shape) not in storages]


def _explained(
    shapes: Sequence[tuple[tuple[int, ...], tuple[int, ...]]],
    file: str | Path,
    data: str,
    classes: int | None,
    channels: int | None,
    *,
    new_head: bool,
) -> str | None:
    """What is wrong in a sentence, if all misfits come from the number of classes or of channels."""
    of_classes = {theirs[0] for theirs, ours in shapes if _differ_at(theirs, ours, 0, classes)}
    of_channels = {theirs[1] for theirs, ours in shapes if _differ_at(theirs, ours, 1, channels)}
    known = [_differ_at(theirs, ours, 0, classes) or _differ_at(theirs, ours, 1, channels) for theirs, ours in shapes]
    if not all(known) or len(of_classes) > 1 or len(of_channels) > 1:
        return None
    parts = []
    if of_classes and not new_head:
        parts.append(f"the weights are of {of_classes.pop()} classes, {data} has {classes}")
    if of_channels:
        parts.append(f"the weights are for images with {_counted(of_channels.pop())}, {data} has {channels}")
    advice = (
        "Train on such images, or, with a timm/ model, start from the weights that timm publishes, which it turns into "
        "weights for other channels (model.weights: pretrained)"
        if new_head
        else "Give the data that they were trained for"
    )
    return f"{file} does not fit the data: {'; '.join(parts)}. {advice}"


def _classes_in(shapes: Iterable[tuple[tuple[int, ...], tuple[int, ...]]], classes: int | None) -> int | None:
    """How many classes weights are of, if all misfits come from that."""
    found = {theirs[0] if _differ_at(theirs, ours, 0, classes) else None for theirs, ours in shapes}
    return found.pop() if len(found) == 1 else None


def _differ_at(theirs: tuple[int, ...], ours: tuple[int, ...], place: int, size: int | None) -> bool:
    """Whether two shapes differ at one place only, where ours has a size that follows from the data."""
    if len(theirs) != len(ours) or len(ours) <= place or ours[place] != size:
        return False
    return [dim for dim in range(len(ours)) if theirs[dim] != ours[dim]] == [place]


def _broken(value: Tensor, is_parameter: bool) -> bool:
    """Whether values are not numbers; infinity is one that masks of attention have, but no parameter."""
    if not value.is_floating_point():
        return False
    value = value if value.dtype in (torch.float32, torch.float64) else value.float()
    return not bool(torch.isfinite(value).all()) if is_parameter else bool(value.isnan().any())


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "a number"


def _counted(channels: int) -> str:
    return f"{channels} channel{'' if channels == 1 else 's'}"


def listed(names: Sequence[str], separator: str = ", ") -> str:
    """The first names of a list, and how many more there are."""
    # what a file says is shown, but not obeyed: its names may hold control sequences of terminals
    shown = separator.join("".join(c if c.isprintable() else "?" for c in name[:80]) for name in names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN:,} more"
