"""A run as a report tells it: its files, each read once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stimulative.config import parse_yaml
from stimulative.errors import UsageError
from stimulative.records import understanding
from stimulative.runs import RECIPE, SUBNETS, SUMMARY, Environment, Epoch, Family, RunDirectory, Summary


@dataclass(frozen=True)
class ReportedRun:
    """A finished run, as its files tell it.

    Args:
        directory: Where they are.
        summary: What it has come to.
        recipe: Its recipe, as text.
        environment: What it ran on; nothing where that is not known.
        family: Its subnets; none where they have not been measured.
        metrics: Its log; nothing where somebody else has trained the net.
    """

    directory: Path
    summary: Summary
    recipe: str
    environment: Environment
    family: Family
    metrics: list[Epoch]

    @property
    def settings(self) -> Mapping[str, object]:
        """The settings of the recipe by dotted key, also of a recipe that is not one of this version."""
        with understanding(self.directory / RECIPE):
            return dict(_flat(parse_yaml(self.recipe)[0]))


def read_run(directory: Path) -> ReportedRun:
    """Read the files of a run.

    Raises:
        UsageError: If the run has not finished, or a file is damaged.
    """
    run = RunDirectory(directory)
    with _like_a_study(run.file(SUMMARY)):
        summary = run.summary
    with _like_a_study(run.file(SUBNETS)):
        family = run.family
    return ReportedRun(directory, summary, run.recipe_text, run.environment, family, run.metrics)


@contextmanager
def _like_a_study(path: Path) -> Iterator[None]:
    """Say of a run's file that is not as expected what is said of a study's."""
    try:
        yield
    except UsageError as error:
        cause = error.__cause__
        if not isinstance(cause, KeyError | TypeError | ValueError) or isinstance(cause, json.JSONDecodeError):
            raise
        with understanding(path):
            raise cause from None


def _flat(value: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value
