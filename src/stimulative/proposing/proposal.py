"""A recipe for one's own model and data: settings chosen by what is found in them, each with its reason.

The model is built, taken apart and, where it starts from trained weights, filled with them; the data are opened and
counted. Rules are those of the shipped recipes where these have a source, else ours, and said to be.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stimulative.config import RECIPE, SECTIONS, Recipe, dump_line, guarding, load_recipe, plain, read_overrides
from stimulative.data import DataSettings, SentenceData, TextData
from stimulative.errors import UsageError
from stimulative.files import user_path
from stimulative.models import PRETRAINED, SavedModel
from stimulative.proposing.lr_range import RangeTest
from stimulative.proposing.rules import Proposed, fit_images, settings_for
from stimulative.runs import RunDirectory
from stimulative.training import Prepared, prepare

_WIDTH = 112
_GIVEN = "Given, not proposed."
_OF_RUN = "That of the run that training starts from."
_OF_SAVED = "That of the model that training starts from, by its directory."
_NO_DROPOUT = " Without dropout, which would only blur what subnets are to agree with."


@dataclass(frozen=True)
class Proposal:
    """A recipe and why it is as it is.

    Args:
        settings: Its settings, in their order.
        run: What it resolves to: the data, and the network with its first weights.
    """

    settings: tuple[Proposed, ...]
    run: Prepared

    @property
    def recipe(self) -> Recipe:
        """The recipe as ``train`` takes it."""
        return self.run.recipe

    def with_rate(self, test: RangeTest) -> Proposal:
        """The same with the learning rate of a range test."""
        end = f"broke at {test.rates[-1]:.2g}" if test.diverged else f"was lowest at {test.lowest:.2g}"
        why = (
            "Peak learning rate, by a range test (Smith 2017, arXiv 1506.01186): where the smoothed loss falls fastest "
            f"while the rate rises from {test.rates[0]:.2g}; training {end}."
        )
        rate = Proposed("optimizer.lr", test.suggestion, why)
        settings = tuple(rate if setting.key == rate.key else setting for setting in self.settings)
        recipe = self.recipe.override({rate.key: rate.value})
        return Proposal(settings, replace(self.run, recipe=recipe))

    def found(self) -> list[str]:
        """What was found, a line each."""
        data, network = self.run.data, self.run.network
        training, validation = data.calibration.images, data.validation.images
        if isinstance(data, SentenceData):
            what = f"{training:,} training and {validation:,} validation texts of up to {data.length} tokens"
        elif isinstance(data, TextData):
            what = f"{training:,} training and {validation:,} validation sequences of {data.length} tokens, "
            what += f"{data.classes:,} different ones"
        else:
            what = f"{training:,} training and {validation:,} validation images of {data.channels}x{data.image_size}x"
            what += f"{data.image_size}, {data.classes:,} classes"
        parameters = sum(parameter.numel() for parameter in network.model.parameters())
        stages = ", ".join(f"{stage.name} ({stage.blocks})" for stage in network.stages)
        lines = [
            f"data: {data.name}: {what}",
            f"model: {self.recipe.model.name}: {parameters:,} parameters; stages {stages}",
            f"subnets: {network.space.count:,}, {network.space.smallest} to {network.full}",
        ]
        return [*lines, f"weights: {self.run.loaded}"] if self.run.loaded else lines

    def to_yaml(self, file: str | Path) -> str:
        """The recipe as a commented file.

        Args:
            file: Its path, for the example in its head.
        """
        name = f"{self.recipe.model.name} on {self.recipe.data.name}"
        head = [f"{name}, written by stimulative init. Every value is a proposal: change what you know better.", ""]
        head += [f"  stimulative train {file} --out runs/{Path(file).stem}", "", "Found:", *self.found()]
        lines = [line for text in head for line in _comment(text)]
        section = None
        for setting in self.settings:
            owner, _, key = setting.key.rpartition(".")
            if owner != section:
                lines += ["", *([f"{owner}:"] if owner else [])]
                section = owner
            indent = "  " if owner else ""
            lines += [indent + line for line in _comment(setting.why)]
            lines.append(f"{indent}{key}: {dump_line(plain(setting.value))}")
        return "\n".join(lines) + "\n"


def propose(model: str | None, data: str, *, weights: str | None = None, settings: Sequence[str] = ()) -> Proposal:
    """Propose a recipe.

    Args:
        model: The model's name; None for that of the run, or of the saved model, that ``weights`` names.
        data: The data set's name.
        weights: What to start from: a file or ``FILE#KEY``, a run directory, a directory in which Transformers saved a
            model, or ``pretrained``; None for new ones.
        settings: Settings that are given, as words such as ``["--data.batch_size", "64"]``; they are kept as they are.

    Raises:
        UsageError: If model, data, weights or settings cannot be used.
    """
    of_run, saved = _model_of_run(weights), None if weights in (None, PRETRAINED) else SavedModel.at(weights)
    told, of_data, of_whom = of_run, {}, _OF_RUN
    if saved is not None and not of_run:
        kind = DataSettings(name=data)
        told, of_whom = saved.settings(kind.task or "images", dropout=kind.task != "embedding"), _OF_SAVED
        if kind.task == "embedding":
            of_whom += _NO_DROPOUT
        if kind.takes_tokens and saved.tokenizer is not None:
            of_data = {"tokenizer": saved.tokenizer}
    if model is None and "name" not in told:
        raise UsageError(
            "which model: give model=NAME, or a run directory, or that of a saved model, to start from (weights=RUN)"
        )
    of_model = {"name": model} if model not in (None, told.get("name")) else told or {"name": model}
    base = {
        "model": {**of_model, "weights": weights},
        "data": {"name": data, **of_data},
        "method": {"name": "stimulative"},
    }
    said = [text for text in (model, data, *settings) if text is not None]
    with guarding(user_path(weights or "") / RECIPE, said) if of_run else nullcontext():
        recipe = load_recipe(base, list(settings))
    given = {".".join(key.split(".")[:2]) for key, _ in read_overrides(list(settings), [])}

    def chosen(found: Iterable[Proposed]) -> list[Proposed]:
        return [setting for setting in found if setting.key not in given]

    fitted = list(fit_images(recipe, given))  # where something is given, it is among them
    recipe = recipe.override({setting.key: setting.value for setting in fitted})
    run = prepare(recipe, weights=True)
    own = chosen(settings_for(run, given))
    share = next((setting.value for setting in own if setting.key == "data.validation"), recipe.data.validation)
    if share != recipe.data.validation:  # so there are other images to train on
        run = prepare(recipe.override({"data.validation": share}), weights=True)
        own = chosen(settings_for(run, given))
    recipe = recipe.override({setting.key: setting.value for setting in own})
    reasons = {f"model.{key}": of_whom for key, value in of_model.items() if key != "name" and value}
    reasons |= dict.fromkeys((f"data.{key}" for key in of_data), _OF_SAVED)
    reasons |= dict.fromkeys(given, _GIVEN) | {setting.key: setting.why for setting in [*own, *fitted]}
    mapping = recipe.to_mapping()
    values = {f"{section}.{key}": value for section in SECTIONS for key, value in mapping[section].items()}
    values["seed"] = recipe.seed
    order = [*SECTIONS, "seed"]
    told = [key for key in reasons if key in values]  # what is empty may be left out of a recipe
    keys = sorted(told, key=lambda key: (order.index(key.partition(".")[0]), not key.endswith(".name")))
    return Proposal(tuple(Proposed(key, values[key], reasons[key]) for key in keys), replace(run, recipe=recipe))


def _model_of_run(weights: str | None) -> Mapping[str, Any]:
    """What a run that is started from says of its model; nothing of anything else."""
    run = None if weights in (None, PRETRAINED) else RunDirectory(user_path(weights))
    model = run.recipe_mapping.get("model") if run is not None and run.started else None
    return {key: model.get(key) for key in ("name", "arguments", "subnet")} if isinstance(model, Mapping) else {}


def _comment(text: str) -> list[str]:
    wrapped = textwrap.wrap(
        text,
        _WIDTH,
        initial_indent="# ",
        subsequent_indent="# ",
        break_on_hyphens=False,  # options and paths stay whole
        break_long_words=False,
    )
    return wrapped or ["#"]
