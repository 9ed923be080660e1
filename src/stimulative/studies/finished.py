"""Finished runs that are asked the same question, side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stimulative.config import Recipe, dump_line
from stimulative.errors import UsageError
from stimulative.files import user_path
from stimulative.runs import RunDirectory, Summary


@dataclass(frozen=True)
class FinishedRun:
    """A finished run: its directory with a label, and what is in it read once.

    Args:
        label: What it is called: the name of its directory, with as many names of parents as tell it from the others.
        directory: Its directory.
        recipe: Its recipe.
        summary: Its summary.
    """

    label: str
    directory: RunDirectory
    recipe: Recipe
    summary: Summary


def finished_runs(runs: Sequence[str | Path]) -> list[FinishedRun]:
    """Runs whose scores can be compared.

    Raises:
        UsageError: If there is none, some are not finished runs (all of them are named), one is given twice, or their
            data sets differ.
    """
    if not runs:
        raise UsageError("no run given: name at least one directory of a finished run")
    directories = [Path(run) for run in runs]
    twice = [str(run) for run, times in Counter(run.resolve() for run in directories).items() if times > 1]
    if twice:
        raise UsageError(f"each run may be given once, got {', '.join(twice)} several times")
    found, problems = [], []
    for label, directory in zip(_labels(directories), directories, strict=True):
        try:
            run = RunDirectory.open(directory)
            found.append(FinishedRun(label, run, run.recipe, run.summary))
            _ = run.weights
        except UsageError as error:
            problems.append(str(error))
    if problems:
        raise UsageError("\n".join(problems))
    data = {_data_of(run.recipe): run for run in found}
    if len(data) > 1:
        named = ", ".join(f"{run.label} is of {_data_name(run.recipe)}" for run in data.values())
        raise UsageError(
            f"these runs are of different data sets, so their scores cannot be compared: {named}. "
            "Ask about the runs of one data set at a time, each with another out="
        )
    return found


def _data_of(recipe: Recipe) -> str:
    folder = recipe.data.folder or recipe.data.text_folder
    if folder is not None:
        return str(user_path(folder).resolve())
    return _data_name(recipe)


def _data_name(recipe: Recipe) -> str:
    return recipe.data.name + (f" with {dump_line(recipe.data.arguments)}" if recipe.data.arguments else "")


def _labels(directories: Sequence[Path]) -> list[str]:
    parts = [directory.resolve().parts for directory in directories]
    lengths = [1] * len(parts)
    while True:
        labels = ["/".join(names[-length:]) for names, length in zip(parts, lengths, strict=True)]
        times = Counter(labels)
        if max(times.values()) == 1:
            return labels
        lengths = [length + (times[label] > 1) for label, length in zip(labels, lengths, strict=True)]
