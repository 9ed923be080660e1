"""Training as a function of a recipe and a directory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from stimulative.config import Recipe, load_recipe
from stimulative.data import Data
from stimulative.errors import UsageError
from stimulative.methods import method_named
from stimulative.models import PRETRAINED
from stimulative.runs import RunDirectory
from stimulative.training.events import Callback
from stimulative.training.resuming import check_directory
from stimulative.training.starting import weights_file
from stimulative.training.trainer import Trainer


def train(
    recipe: Recipe | str | Path,
    out: str | Path,
    *,
    resume: bool = False,
    data: Data | None = None,
    model: nn.Module | None = None,
    progress: bool = True,
    callbacks: Sequence[Callback] = (),
) -> dict[str, Any]:
    """Train as a recipe says and write a run directory.

    Args:
        recipe: A recipe, the name of a shipped one, or the path of a file.
        out: The run directory.
        resume: Go on with the run that is there, if there is one.
        data: Data of your own instead of the recipe's.
        model: A model of your own instead of the recipe's; one that the recipe's seed does not initialise.
        progress: Whether to show progress.
        callbacks: Called while the net trains.

    Returns:
        The summary, as in ``summary.json``.

    Raises:
        UsageError: If something cannot be used, before any training.
        Diverged: If the loss is no longer finite; the last checkpoint is from before.
    """
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    run = RunDirectory(Path(out))
    settings = recipe.method.settings
    problem = method_named(recipe.method.name).problem_on_devices(settings) if recipe.training.devices > 1 else None
    if problem is not None:
        raise UsageError(f"method.{problem}; got training.devices {recipe.training.devices}")
    if recipe.model.weights not in (None, PRETRAINED) and not run.started:
        weights_file(recipe.model.weights)
    finished = check_directory(recipe, run, resume=resume)
    if finished is None:
        trainer = Trainer(recipe, run.path, data=data, model=model, progress=progress, callbacks=callbacks)
        finished = trainer.run()
    return finished.to_mapping()
