"""Opens finished runs: their data, and their networks with the trained weights."""

from __future__ import annotations

from pathlib import Path

import torch

from stimulative.config import Recipe
from stimulative.errors import UsageError
from stimulative.runs import REFERENCE, RunDirectory
from stimulative.training import Prepared, own_gpu, prepare
from stimulative.weights import Weights, load_weights, read_weights


def open_run(run: str | Path, *, device: torch.device | str | None = None) -> Prepared:
    """The data and the trained network of a finished run.

    Args:
        run: The run directory.
        device: Where to compute; by default as the recipe says, or the fastest one where this machine lacks that.

    Raises:
        UsageError: If the directory is not that of a finished run, or its data or weights do not fit.
    """
    directory = RunDirectory.open(run)
    recipe, _, stored = directory.recipe, directory.summary, directory.weights
    prepared = prepare_to_measure(recipe, device=device, reference=directory.reference)
    if prepared.data.unlabelled:
        raise UsageError(
            f"{directory.file(REFERENCE)} is missing, whose outputs the run's nets are compared with: put the file back"
        )
    fill(prepared, read_weights(stored), stored)
    return prepared


def fill(prepared: Prepared, weights: Weights, file: str | Path) -> None:
    """Load the weights of the whole network.

    Args:
        prepared: The network, and the data that it is for.
        weights: The weights.
        file: Where they come from, for messages.

    Raises:
        UsageError: If they do not fit.
    """
    data = prepared.data
    load_weights(
        prepared.network.model,
        weights,
        file=file,
        name=prepared.recipe.model.name,
        data=data.name,
        **data.sizes,
    )


def prepare_to_measure(
    recipe: Recipe, *, device: torch.device | str | None = None, reference: str | Path | None = None
) -> Prepared:
    """What a recipe resolves to, on a device of this machine and with as many threads as the recipe says.

    Args:
        recipe: The recipe.
        device: Where to compute; by default as the recipe says, or the fastest one where this machine lacks that.
        reference: Where data have no targets, the file of the weights that targets are made with.
    """
    if recipe.training.threads is not None:
        torch.set_num_threads(recipe.training.threads)
    return prepare(recipe, device=_device(recipe) if device is None else device, reference=reference)


def _device(recipe: Recipe) -> torch.device:
    """The recipe's device, or the fastest one where it leaves the choice or this machine lacks it."""
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    wanted = recipe.training.device
    kind = wanted if present.get(wanted) else next(kind for kind in present if present[kind])
    return torch.device(kind, own_gpu()) if kind == "cuda" else torch.device(kind)
