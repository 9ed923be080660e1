"""Checkpoints: everything that a run needs to go on as if it had never stopped, and whether it may."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from stimulative.config import SECTIONS, Recipe, dump_line, parse_yaml, plain
from stimulative.data import Data, changes_of_data
from stimulative.errors import UsageError
from stimulative.files import Damaged, check_archive, hash_of, make_directory, metadata_of, regular
from stimulative.methods import method_named
from stimulative.models import PRETRAINED
from stimulative.runs import BEST, LAST, PREVIOUS, RECIPE, RunDirectory, Summary, check_sum
from stimulative.training.devices import planned
from stimulative.training.starting import weights_file

_KEYS = {"method", "optimizer", "scheduler", "random", "epoch", "step", "best", "seconds"}


def save_checkpoint(run: RunDirectory, name: str, state: Mapping[str, Any]) -> None:
    """Write a checkpoint, whole or not at all; the last one is kept beside the new last one."""
    with run.writing(name, keep_as=PREVIOUS if name == LAST else None) as temporary:
        torch.save(state, temporary)


def newest_checkpoint(run: RunDirectory) -> dict[str, Any]:
    """The newest checkpoint of a run that is whole.

    Warns:
        UserWarning: If that is not the last one that was written.

    Raises:
        UsageError: If there is none.
    """
    problems: list[str] = []
    for name in (LAST, PREVIOUS, BEST):
        if not run.file(name).exists():
            continue
        try:
            state = load_checkpoint(run.file(name))
        except UsageError as error:
            problems.append(str(error))
            continue
        if problems or name != LAST:
            lost = "; ".join(problems) or f"{run.file(LAST)} is missing"
            warnings.warn(
                f"{lost}. The run goes on from {name}, behind epoch {state['epoch']}: what came after that is trained "
                "again",
                stacklevel=2,
            )
        return state
    again = "Remove the run, or choose another directory with out=, to start again"
    raise UsageError(f"{'; '.join(problems) or f'{run.path} has no checkpoint'}. {again}")


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint; only tensors and plain values, never code.

    Raises:
        UsageError: If it is damaged, or something else.
    """
    try:
        regular(path)
        check_sum(path)
        check_archive(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Damaged:
        raise
    except Exception as error:
        raise UsageError(f"{path} cannot be read as a checkpoint ({type(error).__name__}): it is damaged") from error
    missing = _KEYS - (state.keys() if isinstance(state, dict) else set())
    if missing:
        raise UsageError(f"{path} is no checkpoint of a run: it lacks {', '.join(sorted(missing))}")
    return state


def check_unchanged(run: RunDirectory, recipe: Recipe, saved: Mapping[str, Any]) -> None:
    """Make sure that a run goes on with the recipe that it was trained by so far, whatever the file says by now.

    Raises:
        UsageError: If it is another one, or an older version took it for another one.
    """
    before = saved.get("recipe")
    _check_meaning(run, before if isinstance(before, Mapping) else parse_yaml(run.recipe_text)[0], recipe)
    changed = changes_of_recipe(before, recipe) if isinstance(before, Mapping) else []
    if changed:
        raise UsageError(
            f"{run.file(RECIPE)} was changed since the run was started: {'; '.join(changed)}. Put it back as it was, "
            "or train by the new recipe in another directory, with out="
        )


def _check_meaning(run: RunDirectory, before: Mapping[str, Any], recipe: Recipe) -> None:
    """Make sure that a recipe means what it meant to the version that the run was started by.

    Raises:
        UsageError: If it does not.
    """
    now = _flat(recipe.to_mapping())
    apart = {key: value for key, value in _meant(_flat(before), recipe).items() if now[key] != value}
    if "data.batch_size" in apart:
        apart["training.strategy"] = recipe.training.strategy  # by which the batch is known to be that of all devices
    if apart:
        settings = ", ".join(f"{key}: {dump_line(value)}" for key, value in apart.items())
        raise UsageError(
            f"the run in {run.path} was started by an older version, in which each device had a batch of "
            "data.batch_size, and GPUs computed without TF32, cuDNN's benchmark and fused optimisers. To go on as it "
            f"began, set in {run.file(RECIPE)} {settings}; or train anew in another directory, with out="
        )


def check_same_data(run: RunDirectory, data: Data, saved: Mapping[str, Any]) -> None:
    """Make sure that a run goes on with the data that it was trained on so far.

    Raises:
        UsageError: If they have changed.
    """
    before = saved.get("data")
    changed = changes_of_data(before, data.fingerprint) if isinstance(before, Mapping) else []
    if changed:
        raise UsageError(
            f"the data have changed since the run in {run.path} was started: {'; '.join(changed)}. Put them back as "
            "they were, or train on them in another directory, with out="
        )


def check_start(recipe: Recipe, run: RunDirectory, *, resume: bool) -> Summary | None:
    """Make sure that a run may start in a directory, or go on there, before anything is opened.

    Args:
        recipe: Its recipe.
        run: The directory.
        resume: Whether it may go on with the run that is there.

    Returns:
        The summary, if a run there has finished.

    Raises:
        UsageError: If it cannot be trained by so many processes, there are no weights to start from, or the directory
            holds a run that may not or cannot go on, or cannot be written to.
    """
    planned(recipe)
    if run.bereft:
        raise UsageError(
            f"{run.path} holds a run that has lost its {RECIPE}, and would be written over: put the file back, or "
            "choose another directory with out="
        )
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
    if not any(run.file(name).exists() for name in (LAST, PREVIOUS, BEST)):
        raise UsageError(
            f"the run in {run.path} has lost its checkpoints and cannot go on: remove the directory, or choose another "
            "one with out=, to start again"
        )
    changed = changes_of_recipe(run.recipe.to_mapping(), recipe)
    if changed:
        stored = run.file(RECIPE)
        raise UsageError(
            f"the run in {run.path} was started with another recipe and cannot go on with this one "
            f"({'; '.join(changed)}). Resume it with its own: stimulative train {stored} --out {run.path} --resume"
        )
    make_directory(run.path)
    if not run.finished:
        return None
    stored, _ = run.weights, run.metrics  # a run without them is no success
    said = metadata_of(stored).get("stimulative.recipe")
    if said is not None and said != hash_of(run.recipe_text):
        raise UsageError(
            f"{run.file(RECIPE)} was changed since the run in {run.path} was trained, which has finished: put it back "
            "as it was, or train by the new recipe in another directory, with out="
        )
    return run.summary


_PLACES = {f"training.{key}" for key in ("devices", "num_nodes", "strategy")}
"""Settings of where a run is trained, which may be elsewhere when it goes on."""
_BEFORE_ON_GPUS = {"training.tf32": False, "training.cudnn_benchmark": False, "optimizer.fused": False}
"""How versions computed on GPUs that had no such settings; on other devices they choose nothing, or nothing else."""


def changes_of_recipe(before: Mapping[str, Any], now: Recipe) -> list[str]:
    """In what two recipes train differently, a phrase each.

    Args:
        before: One, as its file or a checkpoint has it; settings that it does not know yet had their defaults, but
            where older versions did something else.
        now: The other.
    """
    old, new = _flat(before), _flat(now.to_mapping())
    defaults = _flat(plain(_defaults(now)))
    old |= _meant(old, now)
    old |= {key: defaults[key] for key in new.keys() - old.keys() if key in defaults}
    return [
        f"{key}: {old.get(key)!r} then, {new.get(key)!r} now"
        for key in sorted((old.keys() | new.keys()) - _PLACES)
        if old.get(key) != new.get(key)
    ]


def _meant(stored: Mapping[str, Any], now: Recipe) -> dict[str, Any]:
    """What a stored recipe meant where this version reads something else in it, by setting.

    Args:
        stored: Its values by dotted key, as an older version may have written them.
        now: The recipe that the run is to go on with, which says on what.
    """
    meant: dict[str, Any] = {}
    devices = stored.get("training.devices", 1)
    if "training.strategy" not in stored and isinstance(devices, int) and devices > 1:
        meant["data.batch_size"] = stored.get("data.batch_size", now.data.batch_size) * devices
    if stored.get("method.name") == "group_knowledge" and "method.memory" not in stored:
        meant["method.memory"] = "step"
    if now.training.device in ("auto", "cuda") and torch.cuda.is_available():
        meant |= {key: value for key, value in _BEFORE_ON_GPUS.items() if key not in stored}
    return meant


def what_decides(recipe: Recipe, out: Path, saved: Mapping[str, Any] | None) -> dict[str, Any]:
    """What decides a run, by name, which has to be the same in all processes that train it together.

    Args:
        recipe: The recipe.
        out: The run directory.
        saved: The checkpoint that it goes on from, if it does.
    """
    settings = _flat(recipe.to_mapping())
    for key in ("training.devices", "training.num_nodes"):  # each has compared them with what was started
        del settings[key]
    place = {"the run directory": str(out.absolute()), "the step that it is at": saved["step"] if saved else 0}
    return settings | place


def _defaults(recipe: Recipe) -> dict[str, Any]:
    """The settings of a recipe that have defaults, by section."""
    taken = {name: inspect.signature(owner).parameters for name, owner in SECTIONS.items()}
    taken["method"] = inspect.signature(method_named(recipe.method.name)).parameters
    return {
        section: {name: one.default for name, one in settings.items() if one.default is not one.empty}
        for section, settings in taken.items()
    }


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, dict) and value:
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
