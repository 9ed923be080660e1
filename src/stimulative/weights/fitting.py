"""Puts weights into a model that they fit.

Their names may carry what wrappers put before them (``module.`` of DataParallel, ``_orig_mod.`` of torch.compile,
``model.`` of Lightning).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from stimulative.errors import UsageError
from stimulative.naming import listed
from stimulative.weights.reading import Weights

_PREFIXES = ("module.", "_orig_mod.", "model.", "network.")

# The names of torchvision's DenseNets before PyTorch 0.4.1, which its published files still have.
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(?=[12]\.)")


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
