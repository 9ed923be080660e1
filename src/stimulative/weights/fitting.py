"""Puts weights into a model that they fit."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from stimulative.errors import UsageError
from stimulative.models import SentenceEncoder
from stimulative.naming import listed
from stimulative.weights.matching import Match, matches, telling
from stimulative.weights.place import inside
from stimulative.weights.reading import Weights

_NOT_ENCODING = re.compile(r"(^|\.)(pooler\..*|position_ids)$")
"""What files of encoders have that a ``SentenceEncoder`` does not read."""

_COUNTER = "num_batches_tracked"
"""Evaluation does not read it."""


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
    """Fill a model with the weights in a file that have its names, whatever stands before them.

    Where a file holds several such sets with different values (those of a network and their averages, a teacher and a
    student), none is chosen: the error names them, and ``FILE#KEY`` is one of them. A missing ``num_batches_tracked``
    is left as it is: evaluation does not read it.

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
        UsageError: If names or shapes do not fit, all of them listed, several sets of weights do, or a value is not a
            finite number. The model is unchanged then.
    """
    if isinstance(model, SentenceEncoder):  # files of Transformers are of what is inside of it
        model = model.backbone
        weights = {key: value for key, value in weights.items() if not _NOT_ENCODING.search(key)}
    own: dict[str, Tensor] = {key: value for key, value in model.state_dict().items() if isinstance(value, Tensor)}
    match, misfit = _chosen(own, weights, headless, file, name)
    file = inside(file, match.key)
    fitting = match.weights
    theirs = None
    if misfit.shapes and not misfit.missing and not misfit.unexpected:
        shapes = list(misfit.shapes.values())
        theirs = _classes_in(shapes, classes) if new_head else None
        explained = _explained(shapes, file, data, classes, channels, new_head=new_head)
        if theirs is None and explained is not None:
            raise UsageError(explained)
    if theirs is not None:
        fitting = {key: value for key, value in fitting.items() if key not in misfit.shapes}
        misfit = misfit._replace(absent=(*misfit.absent, *misfit.shapes), shapes={})
    if misfit.missing or misfit.unexpected or misfit.shapes:
        raise UsageError(_said(misfit, file, name))
    _check_finite(fitting, model, file)
    model.load_state_dict(fitting, strict=False)
    new = tuple(key for key in own if key in misfit.absent)
    counted = [key for key in own if not key.endswith(_COUNTER)]
    return Loaded(len(counted) - len(new), len(counted), new, theirs, file)


class Loaded(NamedTuple):
    """What became of a model's tensors when weights were loaded; counters of batches are not counted.

    Args:
        loaded: How many were filled.
        tensors: How many there are.
        new: The names of those that were left as they are: a head for other classes.
        classes: How many classes the weights are of, where these differ from the model's.
        file: Where in the file they were, as ``FILE#KEY``.
    """

    loaded: int
    tensors: int
    new: tuple[str, ...]
    classes: int | None
    file: str


class _Misfit(NamedTuple):
    """In what weights and a model differ: names, and shapes in the file and in the model.

    Args:
        missing: What the file lacks.
        absent: What it may lack.
        unexpected: What the model has no place for.
        shapes: What has another shape.
    """

    missing: tuple[str, ...]
    absent: tuple[str, ...]
    unexpected: tuple[str, ...]
    shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]


def _chosen(
    own: Weights, weights: Mapping[str, Tensor], headless: Sequence[str], file: str | Path, name: str
) -> tuple[Match, _Misfit]:
    """The one set of weights that has all names of the model; where there is none, the nearest.

    Raises:
        UsageError: If several have, and differ.
    """
    found = [(match, _misfit(own, match, headless)) for match in matches(own, weights)]
    if not found:
        nothing = Match("", {}, tuple(weights))
        return nothing, _misfit(own, nothing, headless)
    whole = [one for one in found if not one[1].missing]
    whole = [one for one in whole if not one[1].shapes] or whole
    different: list[tuple[Match, _Misfit]] = []
    for one in sorted(whole, key=lambda one: len(one[1].unexpected)):
        if not any(one[0].equals(match) for match, _ in different):
            different.append(one)
    if len(different) > 1:
        ways = [inside(file, key) for key in telling([match.key for match, _ in different])]
        raise UsageError(
            f"{file} holds {len(different)} sets of weights for the model {name}, which differ. Say which one to take: "
            f"{listed(ways, ' or ')}"
        )
    return (different or found)[0]


def _misfit(own: Weights, match: Match, headless: Sequence[str]) -> _Misfit:
    given = match.weights
    lacking = [key for key in own if key not in given and not key.endswith(_COUNTER)]
    lacking = _without_shared(lacking, own, given)
    absent = tuple(key for key in lacking if key.startswith(tuple(f"{module}." for module in headless)))
    return _Misfit(
        missing=tuple(key for key in lacking if key not in absent),
        absent=absent,
        unexpected=tuple(key for key in match.unexpected if not key.endswith(_COUNTER)),
        shapes={
            key: (tuple(given[key].shape), tuple(own[key].shape))
            for key in own
            if key in given and own[key].shape != given[key].shape
        },
    )


def _said(misfit: _Misfit, file: str | Path, name: str) -> str:
    """All that does not fit, in lines."""
    lines = [f"the weights in {file} do not fit the model {name}:"]
    if misfit.missing:
        lines.append(f"  missing in the file ({len(misfit.missing)}): {listed(misfit.missing)}")
    if misfit.unexpected:
        lines.append(f"  unexpected in the file ({len(misfit.unexpected)}): {listed(misfit.unexpected)}")
    if misfit.shapes:
        described = [
            f"{key} {_shape(theirs)}, the model has {_shape(ours)}" for key, (theirs, ours) in misfit.shapes.items()
        ]
        lines.append(f"  of another shape in the file ({len(described)}): {listed(described, '; ')}")
    lines.append("Give the architecture that they were trained with: its name, and its arguments if it has any")
    return "\n".join(lines)


def _without_shared(missing: Sequence[str], own: Weights, given: Mapping[str, Tensor]) -> list[str]:
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


def _check_finite(weights: Mapping[str, Tensor], model: nn.Module, file: str) -> None:
    parameters = {key for key, _ in model.named_parameters(remove_duplicate=False)}
    broken = [key for key, value in weights.items() if _broken(value, key in parameters)]
    if broken:
        raise UsageError(
            f"the weights in {file} are not all finite numbers: {listed(broken)}. Training has diverged, or the file "
            "is damaged; take an earlier checkpoint"
        )


def _broken(value: Tensor, is_parameter: bool) -> bool:
    """Whether values are not numbers; infinity is one that masks of attention have, but no parameter."""
    if not value.is_floating_point():
        return False
    value = value if value.dtype in (torch.float32, torch.float64) else value.float()
    return not bool(torch.isfinite(value).all()) if is_parameter else bool(value.isnan().any())


def _shape(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape)) or "a number"


def _counted(channels: int) -> str:
    return f"{channels} channel{'' if channels == 1 else 's'}"
