"""Starting from trained weights: finding them, filling the network with them, and saying what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from stimulative import models
from stimulative.config import dump_line
from stimulative.data import Data
from stimulative.errors import UsageError
from stimulative.files import user_path
from stimulative.models import PRETRAINED, ModelSettings, SavedModel
from stimulative.naming import listed
from stimulative.runs import BEST, MODEL, RECIPE, Origin, RunDirectory
from stimulative.training.randomness import random_states, restore_random_states
from stimulative.weights import Loaded, Weights, WeightsPlace, load_weights, read_weights, sha256


@dataclass(frozen=True)
class Start:
    """Weights that were read and are not loaded yet.

    Args:
        weights: The state dict.
        file: Where it is from, for people.
        sha256: The SHA-256 of the file; None for published weights.
        headless: Modules of the model that the weights may lack.
        architecture: What they were trained in, where a run says it.
    """

    weights: Weights
    file: str
    sha256: str | None = None
    headless: tuple[str, ...] = ()
    architecture: str = ""

    def fill(self, model: nn.Module, name: str, data: Data) -> tuple[Origin, str]:
        """Load the weights; the head may stay as it is.

        Args:
            model: The model.
            name: Its name, for messages.
            data: What it is for.

        Returns:
            Where the weights came from, and what was loaded in a sentence.

        Raises:
            UsageError: If something does not fit; all of it is listed.
        """
        try:
            loaded = load_weights(
                model,
                self.weights,
                file=self.file,
                name=name,
                data=data.name,
                **data.sizes,
                new_head=data.task != "embedding",  # it has none, and new vectors of tokens mean nothing
                headless=self.headless,
            )
        except UsageError as error:
            raise UsageError(
                f"{error}\n  that run is of {self.architecture}" if self.architecture else error
            ) from error
        return Origin(loaded.file, self.sha256, loaded.new), _in_words(loaded, data)


def weights_file(given: str | Path) -> WeightsPlace:
    """The file of weights, or the part of one, that a file, ``FILE#KEY``, a run directory or a saved model stands for.

    Raises:
        UsageError: If there is neither, or the run has not finished.
    """
    place = WeightsPlace.of(given)
    path = place.path
    if not path.is_dir():
        if not path.exists():
            raise UsageError(
                f"there is no file and no run directory {path} to start from; give a file of weights, the directory "
                f"of a finished run, or {PRETRAINED}"
            )
        return place
    if place.key:
        raise UsageError(f"{path} is a folder, and #{place.key} names a part of a file; leave it out, or give the file")
    run = RunDirectory(path)
    if not run.started:
        saved = SavedModel.at(path)
        if saved is not None:
            return WeightsPlace(saved.weights)
        raise UsageError(
            f"{given} is a folder, but neither that of a run nor one in which Transformers saved a model "
            "(config.json); give a run directory, or a file of weights"
        )
    if not run.finished:
        raise UsageError(
            f"the run in {given} has not finished: continue it first (stimulative train {run.file(RECIPE)} --out "
            f"{path} --resume), or start from its checkpoint: {run.file(BEST)}"
        )
    if not run.file(MODEL).exists():
        raise UsageError(f"there is no {run.file(MODEL)}, though the run has finished; put the file back")
    return WeightsPlace(run.file(MODEL))


def read_start(settings: ModelSettings, data: Data, *, own_model: bool = False) -> Start:
    """Read the weights that a recipe starts from.

    Args:
        settings: What it says of the model, ``weights`` among it.
        data: The data, for which published weights are made to fit.
        own_model: Whether the model is one of the caller's, which no library publishes weights of.

    Raises:
        UsageError: If they cannot be had.
    """
    assert settings.weights is not None
    if settings.weights != PRETRAINED:
        file = str(weights_file(settings.weights))
        return Start(read_weights(file), file, sha256(file), architecture=_architecture(settings.weights))
    if own_model:
        raise UsageError(f"model.weights: {PRETRAINED} is not for a model of your own; give it with its weights loaded")
    before = random_states()
    try:
        model = models.build_pretrained(settings.name, **data.input_sizes, arguments=settings.arguments, task=data.task)
    finally:
        restore_random_states(before)  # building has drawn first weights that nobody sees
    said = getattr(model, "pretrained_cfg", None) or {}
    heads = said.get("classifier") or ()
    where = said.get("file") or said.get("hf_hub_id") or said.get("url")
    return Start(
        dict(model.state_dict()),
        f"{PRETRAINED} {settings.name}" + (f" ({where})" if where else ""),
        headless=(heads,) if isinstance(heads, str) else tuple(heads),
    )


def _architecture(given: str) -> str:
    """What a run says of its model; nothing of a file."""
    run = RunDirectory(user_path(given))
    model = run.recipe_mapping.get("model") if run.started else None
    if not isinstance(model, Mapping):
        return ""
    subnet = "" if model.get("subnet") is None else f", subnet {model['subnet']}"
    return f"model.name {model.get('name')}, model.arguments {dump_line(model.get('arguments'))}{subnet}"


def _in_words(loaded: Loaded, data: Data) -> str:
    if not loaded.new:
        return f"loaded all {loaded.tensors} tensors from {loaded.file}"
    what = "tokens" if data.is_text else "classes"
    instead = "" if loaded.classes is None else f" instead of {loaded.classes}"
    shown = listed(loaded.new)
    return (
        f"loaded {loaded.loaded} of {loaded.tensors} tensors from {loaded.file}; new: {shown} "
        f"({data.classes} {what}{instead})"
    )
