"""Checkpoints: everything that a run needs to go on as if it had never stopped, and whether it may."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from stimulative.config import Recipe
from stimulative.errors import UsageError
from stimulative.files import make_directory, replacing
from stimulative.methods import method_named
from stimulative.models import PRETRAINED
from stimulative.runs import LAST, RECIPE, RunDirectory, Summary
from stimulative.training.starting import weights_file

_KEYS = {"method", "optimizer", "scheduler", "random", "epoch", "step", "best", "seconds"}


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint, whole or not at all."""
    with replacing(path) as temporary:
        torch.save(state, temporary)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint; only tensors and plain values, never code.

    Raises:
        UsageError: If it is damaged, or something else.
    """
    again = "Remove the run, or choose another directory with out=, to start again"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UsageError(
            f"{path} cannot be read as a checkpoint ({type(error).__name__}): it is damaged. {again}"
        ) from error
    missing = _KEYS - (state.keys() if isinstance(state, dict) else set())
    if missing:
        raise UsageError(f"{path} is no checkpoint of a run: it lacks {', '.join(sorted(missing))}. {again}")
    return state


def check_start(recipe: Recipe, run: RunDirectory, *, resume: bool) -> Summary | None:
    """Make sure that a run may start in a directory, or go on there, before anything is opened.

    Args:
        recipe: Its recipe.
        run: The directory.
        resume: Whether it may go on with the run that is there.

    Returns:
        The summary, if a run there has finished.

    Raises:
        UsageError: If the method cannot be trained on so many devices, there are no weights to start from, or the
            directory holds a run that may not or cannot go on, or cannot be written to.
    """
    settings = recipe.method.settings
    problem = method_named(recipe.method.name).problem_on_devices(settings) if recipe.training.devices > 1 else None
    if problem is not None:
        raise UsageError(f"method.{problem}; got training.devices {recipe.training.devices}")
    if recipe.model.weights not in (None, PRETRAINED) and not run.started:
        weights_file(recipe.model.weights)
    if not run.started:
        make_directory(run.path)
        return None
    if not resume:
        raise UsageError(
            f"{run.path} holds a run already: go on with it (resume=True), remove it, or choose another directory with "
            "out="
        )
    if not run.file(LAST).exists():
        raise UsageError(
            f"the run in {run.path} has lost its {LAST} and cannot go on: remove the directory, or choose another one "
            "with out=, to start again"
        )
    before = run.recipe
    if before != recipe:
        old, new = _flat(before.to_mapping()), _flat(recipe.to_mapping())
        changed = [
            f"{key}: {old.get(key)!r} then, {new.get(key)!r} now"
            for key in sorted(old.keys() | new.keys())
            if old.get(key) != new.get(key)
        ]
        stored = run.file(RECIPE)
        raise UsageError(
            f"the run in {run.path} was started with another recipe and cannot go on with this one "
            f"({'; '.join(changed)}). Resume it with its own: stimulative train {stored} --out {run.path} --resume"
        )
    make_directory(run.path)
    return run.summary if run.finished else None


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, dict) and value:
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
