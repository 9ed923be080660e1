"""Training as a function of a recipe and a directory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from stimulative.claiming import claimed
from stimulative.config import Recipe, load_recipe
from stimulative.data import Data, View
from stimulative.runs import RunDirectory
from stimulative.training.events import Callback
from stimulative.training.resuming import check_start
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
    calibration: View | None = None,
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
        calibration: Which view of the training images statistics come from in the end, where the recipe leaves it open;
            a study has one for all its runs.

    Returns:
        The summary, as in ``summary.json``.

    Raises:
        UsageError: If something cannot be used, before any training.
        Diverged: If the loss is no longer finite; the last checkpoint is from before.
    """
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe, of_a_run=Path(recipe).parent.resolve() == Path(out).resolve())
    with claimed(Path(out), "training"):
        finished = check_start(recipe, RunDirectory(Path(out)), resume=resume)
        if finished is None:
            finished = Trainer(
                recipe, out, data=data, model=model, progress=progress, callbacks=callbacks, calibration=calibration
            ).run()
    return finished.to_mapping()
