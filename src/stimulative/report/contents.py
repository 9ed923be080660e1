"""What a directory holds: a run, studies of one kind or another, or several runs."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stimulative import files
from stimulative.config import yamlfile
from stimulative.errors import UsageError
from stimulative.runs import ENVIRONMENT, METRICS, RECIPE, SUBNETS, SUMMARY, read_metrics

_SUBJECT = ("model", "data", "epochs", "seeds")
STUDIES: dict[str, dict[str, tuple[str, ...]]] = {
    "comparison": {
        "": ("rows", "runs"),
        "rows": ("method", "seeds", "main_mean", "all_mean", "all_std"),
        "runs": ("method", "seed", "model", "data", "epochs"),
    },
    "loafing": {
        "": (*_SUBJECT, "rows", "subnets"),
        "rows": ("method", "main", "blocks", "subnets", "in_group_mean", "in_group_std", "alone_mean", "alone_std"),
        "subnets": ("method", "main", "main_blocks", "subnet", "blocks", "seed", "in_group", "alone", "gap"),
    },
    "matrix": {"": (*_SUBJECT, "nets", "cells"), "cells": ("subnet", "main", "seeds", "mean", "std")},
    "sweep": {
        "": ("key", "model", "data", "epochs", "rows"),
        "rows": (
            *("value", "seeds", "main_mean", "main_std"),
            *("all_mean", "all_std", "all_mean_spread", "all_min"),
        ),
    },
    "destruction": {
        "": ("images", "calibration_images", "draws", "seed", "runs"),
        "runs": ("run", "model", "data", "method", "main"),
        "single": ("run", "recalibrated", "stage", "block", "name", "subnet", "top1", "loss"),
        "swaps": ("run", "recalibrated", "k", "draw", "subnet", "tau", "top1", "loss"),
        "delete_rows": ("run", "recalibrated", "k", "draws", "mean", "std", "min", "max"),
        "swap_rows": ("run", "recalibrated", "k", "draws", "tau", "mean", "std", "min", "max"),
    },
}
"""What each kind of study has in its file, KIND.json, and in each row of the file's tables."""


@dataclass(frozen=True)
class Run:
    """A finished run, as its files tell it.

    Args:
        directory: Where they are.
        summary: ``summary.json``.
        recipe: ``recipe.yaml``, as text.
        environment: ``environment.json``; empty where there is none.
        family: ``subnets.csv``, with numbers as numbers; empty where the subnets have not been measured.
        metrics: ``metrics.csv``, with numbers as numbers; empty where somebody else has trained the net.
    """

    directory: Path
    summary: dict[str, Any]
    recipe: str
    environment: dict[str, Any]
    family: list[dict[str, Any]]
    metrics: list[dict[str, Any]]

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the recipe by dotted key."""
        with understanding(self.directory / RECIPE):
            return dict(_flat(yamlfile.parse(self.recipe)[0]))


@dataclass(frozen=True)
class Source:
    """A directory that a report draws from.

    Args:
        directory: The directory.
        studies: The contents of the files of studies, by kind.
        runs: The finished runs in it.
        unfinished: The names of runs in it that have not finished.
    """

    directory: Path
    studies: dict[str, dict[str, Any]] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)


def read_source(directory: Path) -> Source:
    """Find out what a directory holds, and read it.

    Raises:
        UsageError: If it holds nothing that can be drawn, or a file is damaged.
    """
    if not directory.is_dir():
        raise UsageError(f"{directory} is {'not a directory' if directory.exists() else 'not there'}; {_accepted()}")
    studies = {kind: read_study(directory, kind) for kind in STUDIES if (directory / f"{kind}.json").exists()}
    if not studies and (directory / RECIPE).exists():
        return Source(directory, runs=[read_run(directory)])
    inside = sorted(path for path in directory.iterdir() if (path / RECIPE).exists())
    runs = [read_run(path) for path in inside if (path / SUMMARY).exists()]
    if not studies and not runs:
        names = sorted(path.name for path in directory.iterdir())
        found = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        raise UsageError(f"nothing to report in {directory}: it holds {found or 'nothing'}; {_accepted()}")
    unfinished = [path.name for path in inside if not (path / SUMMARY).exists()]
    return Source(directory, studies, runs, unfinished)


def read_study(directory: Path, kind: str) -> dict[str, Any]:
    """Read the file of a study.

    Returns:
        Its contents, which have at least what ``STUDIES`` says.

    Raises:
        UsageError: If it is missing or lacks something.
    """
    path = directory / f"{kind}.json"
    content = files.read_json(path)
    with understanding(path):
        study = {**content, **{key: content[key] for key in STUDIES[kind][""]}}
        for table, keys in STUDIES[kind].items():
            if table:
                study[table] = [{**{key: row[key] for key in keys}, **row} for row in content[table]]
        return study


def read_run(directory: Path) -> Run:
    """Read the files of a run.

    Raises:
        UsageError: If the run has not finished, or a file is damaged.
    """
    if not (directory / SUMMARY).exists():
        raise UsageError(f"the run in {directory} has not finished: it has no {SUMMARY}; continue it with --resume")
    summary = files.read_json(directory / SUMMARY)
    with understanding(directory / SUMMARY):
        known = {key: summary[key] for key in ("method", "model", "data", "seed")}
        summary = {**summary, **known, "main": {**summary["main"], "top1": float(summary["main"]["top1"])}}
    environment = directory / ENVIRONMENT
    return Run(
        directory,
        summary,
        (directory / RECIPE).read_text(encoding="utf-8"),
        files.read_json(environment) if environment.exists() else {},
        _read_family(directory / SUBNETS),
        _read_metrics(directory / METRICS),
    )


@contextmanager
def understanding(path: Path) -> Iterator[None]:
    """Say which file it is when what it holds is not as expected."""
    try:
        yield
    except UsageError:
        raise
    except KeyError as error:
        raise UsageError(f"{path} is not as stimulative writes it: {error} is missing; make it anew") from error
    except (TypeError, ValueError, IndexError, AttributeError) as error:
        raise UsageError(f"{path} is not as stimulative writes it: {error}; make it anew") from error


def _read_family(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    with understanding(path), path.open(encoding="utf-8", newline="") as file:
        return [
            {
                "subnet": row["subnet"],
                "blocks": int(row["blocks"]),
                "top1": float(row["top1"]),
                "parameters": int(row["parameters"]),
                "flops": int(row["flops"]),
                "latency_ms": float(row["latency_ms"]) if row.get("latency_ms") else None,
            }
            | ({"perplexity": float(row["perplexity"])} if row.get("perplexity") else {})
            for row in csv.DictReader(file)
        ]


def _read_metrics(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    with understanding(path):
        return [
            {"epoch": int(row["epoch"])}
            | {
                key: float(row[key]) if row[key] else None
                for key in ("loss", "main_ce", "train_top1", "validation_top1")
            }
            for row in read_metrics(path)
        ]


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def _accepted() -> str:
    return (
        "a report is made of run directories (with recipe.yaml and summary.json), of directories that hold such runs, "
        f"and of those that stimulative compare, loafing, matrix, sweep and destroy write ({', '.join(STUDIES)}.json)"
    )
