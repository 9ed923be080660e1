"""Whether a run, or a file that was made of one, is whole and what it says it is."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stimulative import files
from stimulative.data import changes_of_data
from stimulative.data import load as load_data
from stimulative.errors import UsageError
from stimulative.records import Record
from stimulative.runs import (
    BEST,
    ENVIRONMENT,
    LAST,
    METRICS,
    MODEL,
    PREVIOUS,
    RANKING,
    RECIPE,
    REFERENCE,
    SUBNETS,
    SUMMARY,
    RunDirectory,
    check_sum,
)

State = Literal["as written", "no checksum", "missing", "damaged", "agrees", "disagrees", "unknown"]
_FINE = "as written", "no checksum", "agrees", "unknown"
_OF_A_FINISHED_RUN = RECIPE, ENVIRONMENT, METRICS, MODEL, SUMMARY


@dataclass(frozen=True)
class Finding(Record):
    """What was found of one thing.

    Args:
        what: The file, or what was compared.
        state: How it is.
        details: What is wrong, or not known; empty where nothing is.
    """

    what: str
    state: State
    details: str = ""

    @property
    def fine(self) -> bool:
        """Whether nothing is wrong with it."""
        return self.state in _FINE


def verify(place: str | Path, *, data: bool = True) -> list[Finding]:
    """Look at a run directory, or at a file of weights or a family that this library wrote.

    Args:
        place: The run directory, or the file.
        data: Whether to open a run's data, to see whether they are those that it was trained on.

    Returns:
        What was found, the files first; all is well if each is ``fine``.

    Raises:
        UsageError: If it is neither.
    """
    path = files.user_path(place)
    if path.is_file():
        return [_file(path)]
    run = RunDirectory.open(path)
    found = [_of_run(run, name) for name in _expected(run)]
    found.append(_recipe(run))
    if run.evaluated and run.finished:
        found.append(_subnets(run))
    if data:
        found.append(_data(run))
    return found


def _expected(run: RunDirectory) -> list[str]:
    """The files that a run has to have, and those that it has besides."""
    trained = not run.finished or run.file(LAST).exists() or run.file(METRICS).exists()
    needed = {*(_OF_A_FINISHED_RUN if run.finished else (RECIPE, ENVIRONMENT)), *((LAST,) if trained else ())}
    if not trained:  # weights that somebody else has trained have no log
        needed.discard(METRICS)
    if run.finished:
        needed.discard(LAST)  # which may have been removed to save room
    every = RECIPE, ENVIRONMENT, METRICS, LAST, PREVIOUS, BEST, MODEL, REFERENCE, SUMMARY, SUBNETS, RANKING
    return [name for name in every if name in needed or run.file(name).exists()]


def _of_run(run: RunDirectory, name: str) -> Finding:
    path = run.file(name)
    if not path.exists():
        return Finding(name, "missing")
    if name == METRICS and not run.finished:
        return Finding(name, "no checksum", "epochs are added to it until the run has finished")
    try:
        known = check_sum(path)
        sealed = name in (MODEL, REFERENCE) and files.check_seal(path)
    except files.Damaged as error:
        return Finding(name, "damaged", str(error).rpartition(": ")[2])
    except (UsageError, OSError) as error:
        return Finding(name, "damaged", f"it cannot be read: {error}")
    return Finding(name, "as written" if known or sealed else "no checksum")


def _file(path: Path) -> Finding:
    try:
        known = check_sum(path)
        if zipfile.is_zipfile(path):
            files.check_archive(path)
            return Finding(path.name, "as written" if known else "agrees", "" if known else "with the checksums inside")
        sealed = files.check_seal(path)
    except files.Damaged as error:
        return Finding(path.name, "damaged", str(error).rpartition(": ")[2])
    except (OSError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    if known and not sealed:
        return Finding(path.name, "as written")
    if not sealed:
        details = "files of a run have one beside them, safetensors files of this library and archives inside"
        return Finding(path.name, "no checksum", details)
    beside = path.with_name(f"{path.name}.json")
    said = _json_in(path, "stimulative")
    if beside.exists() and said is not None and said != files.read_json(beside):
        return Finding(path.name, "disagrees", f"its header says something else than {beside.name}")
    return Finding(path.name, "as written")


def _json_in(path: Path, key: str) -> Any:
    """What the header of a safetensors file says under a key; None if nothing that is JSON."""
    try:
        return json.loads(_metadata(path).get(key, "null"))
    except (ValueError, RecursionError):
        return None


def _metadata(path: Path) -> Mapping[str, str]:
    """What the header of a safetensors file says beside its tensors; nothing where it cannot be read."""
    try:
        return files.metadata_of(path)
    except UsageError:
        return {}


def _recipe(run: RunDirectory) -> Finding:
    """Whether the recipe is the one that the model was trained by."""
    what = f"{RECIPE} and {MODEL}"
    if not run.file(MODEL).exists():
        return Finding(what, "unknown", "there is no model yet")
    said = _metadata(run.file(MODEL)).get("stimulative.recipe")
    if said is None:
        return Finding(what, "unknown", "the model does not say what it was trained by")
    if said != files.hash_of(run.recipe_text):
        return Finding(what, "disagrees", f"{RECIPE} was changed since the model was trained")
    return Finding(what, "agrees")


def _subnets(run: RunDirectory) -> Finding:
    """Whether the table of subnets is the one that the summary is of."""
    what = f"{SUBNETS} and {SUMMARY}"
    try:
        family, summary = run.family, run.summary
    except UsageError as error:
        return Finding(what, "unknown", f"one of them cannot be read: {error}")
    said = summary.subnets
    mean = sum(member.score.quality for member in family) / max(1, len(family))
    if said.evaluated != len(family) or said.mean is None or abs(said.mean - mean) > 1e-3:
        details = f"{len(family)} subnets with a mean of {mean:.2f}, and {said.evaluated} with {said.mean or 0:.2f}"
        return Finding(what, "disagrees", f"{details}; measure again: stimulative evaluate {run.path}")
    return Finding(what, "agrees")


def trained_on(run: RunDirectory) -> Mapping[str, str]:
    """The fingerprint of the data that the model of a run was trained on; empty where nobody knows."""
    said = _json_in(run.file(MODEL), "stimulative.data") if run.file(MODEL).exists() else None
    return {str(key): str(value) for key, value in said.items()} if isinstance(said, Mapping) else {}


def _data(run: RunDirectory) -> Finding:
    """Whether the data are those that the model was trained on."""
    before = trained_on(run)
    if not before:
        return Finding("data", "unknown", "the model does not say what it was trained on")
    try:
        recipe = run.recipe
        now = load_data(recipe.data, seed=recipe.seed).fingerprint
    except UsageError as error:
        return Finding("data", "unknown", f"they cannot be opened here: {error}")
    changed = changes_of_data(before, now)
    return Finding("data", "disagrees" if changed else "agrees", "; ".join(changed))
