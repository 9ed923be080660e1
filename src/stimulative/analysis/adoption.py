"""Weights found anywhere become a run directory, so that all that can be asked of a run can be asked of them.

The images that the model sees are those of the data set, as in training here. ``cifar10`` and ``cifar100`` are
normalised by the mean and deviation of their training images. ``folder:PATH`` is resized (bilinear) so that the shorter
side is 256/224 of ``data.image_size``, cropped to the centre, and normalised by ImageNet's mean (0.485, 0.456, 0.406)
and deviation (0.229, 0.224, 0.225). Weights that were trained on images prepared otherwise lose accuracy by
that: ``data.mean``, ``data.std``, ``data.crop_ratio`` and ``data.interpolation`` prepare them as they were. Language
models see ``data.length`` tokens at a time, by ``data.tokenizer``, which has to be the one that they were trained with.
Encoders of texts without labels are compared with themselves: the main net has a cosine of 1.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stimulative import files
from stimulative.analysis.steps import Steps
from stimulative.analysis.trained import fill, prepare_to_measure
from stimulative.config import Recipe, load_recipe
from stimulative.data import FOLDER, Data, ImageData
from stimulative.errors import UsageError
from stimulative.models import SavedModel
from stimulative.runs import Environment, FamilySummary, Origin, RunDirectory, Summary, device_name, versions
from stimulative.training import Prepared, measure_main, parameters_of
from stimulative.weights import WeightsPlace, read_weights, sha256


def recipe_for(model: str, data: str, settings: Mapping[str, Any] | Sequence[str] = ()) -> Recipe:
    """A recipe for weights that are to be measured, not trained.

    Args:
        model: The model's name.
        data: The data set's name.
        settings: Further settings, as ``load_recipe`` takes them: by dotted key, or as words of a command line. Those
            of the data are best what the weights were trained with, since subnets' statistics come from such images.

    Raises:
        UsageError: If one of them cannot be.
    """
    return load_recipe({"model": {"name": model}, "data": {"name": data}, "method": {"name": "common"}}, settings)


def adopt(
    recipe: Recipe,
    weights: str | Path,
    out: str | Path,
    *,
    device: torch.device | str | None = None,
    progress: Callable[[int, int], Any] | None = None,
) -> Path:
    """Make a run directory of weights: load them, measure the main net on the test split, and write it all down.

    The main net normalises with the statistics in the file. The directory appears whole or not at all; weights that
    are in it already are left as they are, with what was measured of them since.

    Args:
        recipe: The model and the data, from ``recipe_for``; what it says about training is not used.
        weights: The file, or ``FILE#KEY``, as ``read_weights`` takes it; or a directory in which Transformers saved a
            model.
        out: The run directory to write.
        device: Where to compute; by default as the recipe says.
        progress: Called with the batches done and the batches in all.

    Returns:
        The run directory.

    Raises:
        UsageError: If the weights cannot be read or do not fit the model or the data, or the directory holds something
            else.
    """
    out = Path(out)
    saved = SavedModel.at(weights)
    weights = weights if saved is None else saved.weights
    found = read_weights(weights)
    origin = Origin(str(weights), sha256(weights))
    if _holds_already(out, recipe, origin):
        return out
    prepared = prepare_to_measure(recipe, device=device, reference=weights)
    fill(prepared, found, weights)
    files.make_directory(out.parent)
    _warn_of_other_images(prepared.network.model, prepared.data)
    summary = _measured(prepared, origin, progress)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary:
        whole = RunDirectory(Path(temporary) / out.name)
        whole.path.mkdir()
        whole.write_recipe(recipe)
        whole.write_environment(Environment.of(_place(prepared), recipe.seed))
        whole.write_model(prepared.network.model)
        whole.write_summary(summary)
        try:
            os.replace(whole.path, out)  # also over an empty directory
        except OSError as error:
            raise UsageError(f"cannot write to {out}: {error.strerror}; choose another directory with out=") from error
    return out


def _place(prepared: Prepared) -> torch.device:
    return next(prepared.network.parameters()).device


def _measured(prepared: Prepared, origin: Origin, progress: Callable[[int, int], Any] | None) -> Summary:
    """The summary of weights: their main net on the test split."""
    network, data = prepared.network, prepared.data
    steps = Steps(progress, len(data.test))
    return Summary(
        task=data.task,
        method=None,
        model=prepared.recipe.model.name,
        data=data.name,
        seed=prepared.recipe.seed,
        parameters=parameters_of(network),
        main=measure_main(network, data.test, data, after_batch=steps.step),
        subnets=FamilySummary(count=network.space.count),
        device=device_name(_place(prepared)),
        versions=versions(),
        weights=origin,
    )


def _holds_already(out: Path, recipe: Recipe, origin: Origin) -> bool:
    """Whether a directory holds just these weights, adopted with this recipe.

    Raises:
        UsageError: If it holds anything else.
    """
    run = RunDirectory(out)
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if not run.started or not run.finished:
        raise UsageError(f"{out} exists and is not a run of these weights; choose another directory with out=")
    adopted = run.summary.weights
    if adopted is None or (adopted.sha256, WeightsPlace.of(adopted.file).key) != (
        origin.sha256,
        WeightsPlace.of(origin.file).key,
    ):
        other = "a trained run" if adopted is None else f"the weights {adopted.file}"
        raise UsageError(f"{out} holds {other}; choose another directory with out=, or remove it")
    before, now = run.recipe.to_mapping(), recipe.to_mapping()
    changed = [section for section in now if before.get(section) != now[section]]
    if changed:
        raise UsageError(
            f"{out} holds these weights with other settings ({', '.join(changed)}); choose another directory with "
            "out=, or remove it"
        )
    return True


def _warn_of_other_images(model: nn.Module, data: Data) -> None:
    """Warn if a model says, as timm's do, that it was trained on images normalised otherwise."""
    if not isinstance(data, ImageData):
        return
    said: Mapping[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    mean, std = tuple(said.get("mean") or ()), tuple(said.get("std") or ())
    # models for small images are built from timm's for large ones, and say nothing true about theirs
    if data.name.startswith(FOLDER) and mean and std and (mean, std) != (data.mean, data.std):
        warnings.warn(
            f"timm's weights of this architecture are for images with mean {mean} and deviation {std}; these are "
            f"normalised by {data.mean} and {data.std}. If the weights are timm's, the accuracies are too low; "
            "set data.mean and data.std",
            stacklevel=3,
        )
