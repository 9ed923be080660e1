"""One setting of a recipe at several values, such as the balance in Fig. r3 of the paper."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from stimulative.config import Recipe
from stimulative.errors import UsageError
from stimulative.records import Record
from stimulative.studies.jobs import AfterRun, Job, Outcome, Workers
from stimulative.studies.planning import carry_out, seeds_from, task_of
from stimulative.studies.study import Failed, OverSeeds, StudyOfRuns, over_seeds


@dataclass(frozen=True, kw_only=True)
class SweepRow(OverSeeds):
    """What a value of the setting has come to, over seeds.

    Args:
        value: The value.
    """

    value: Any

    def to_mapping(self) -> dict[str, Any]:
        """The row, its value first."""
        return {"value": self.value, **super().to_mapping()}


@dataclass(frozen=True)
class SweepRun(Record):
    """A finished run.

    Args:
        run: The name of its directory.
        value: The value of the setting.
        seed: Its seed.
    """

    run: str
    value: Any
    seed: int


@dataclass(frozen=True, kw_only=True)
class Sweep(StudyOfRuns):
    """One setting at several values.

    Args:
        key: The setting.
        model: The model.
        data: The data set.
        epochs: Epochs of each run.
        rows: A row for each value that has a finished run.
        runs: The finished runs.
        failed: The runs that failed.
    """

    NAME = "sweep"

    key: str
    model: str
    data: str
    epochs: int
    rows: tuple[SweepRow, ...]
    runs: tuple[SweepRun, ...] = ()
    failed: tuple[Failed, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether no run has finished."""
        return not self.rows


class SweepPlan:
    """Which runs a sweep needs.

    Args:
        recipe: The recipe.
        key: The setting, such as ``method.balance``.
        values: Its values, as on a command line.
        seeds: The number of seeds, counted from the recipe's.

    Raises:
        UsageError: If one of these cannot be.
    """

    def __init__(self, recipe: Recipe, key: str, values: Sequence[str], *, seeds: int = 3) -> None:
        if key == "seed":
            raise UsageError("the seed is not swept: give the number of seeds instead, with seeds=")
        if not values:
            raise UsageError(f"no value of {key} is given")
        self.recipe = recipe
        self.key = key
        self.seeds = seeds_from(recipe, seeds)
        recipes = {text: recipe.override([f"--{key}={text}"]) for text in values}
        self.values = {text: _value(one, key) for text, one in recipes.items()}
        if len(values) > len({one.to_yaml() for one in recipes.values()}):
            raise UsageError(f"each value of {key} may be given once, got {', '.join(values)}")
        self.names = {text: f"{key.rpartition('.')[2]}-{re.sub(r'[^A-Za-z0-9.+-]+', '_', text)}" for text in values}
        if len(set(self.names.values())) < len(values):
            self.names = {text: f"{name}-{number}" for number, (text, name) in enumerate(self.names.items())}
        self.jobs = {
            self.run_of(text, seed): Job(one.override({"seed": seed}))
            for seed in self.seeds
            for text, one in recipes.items()
        }

    def run_of(self, text: str, seed: int) -> str:
        """The name of the directory of a run."""
        return f"{self.names[text]}-seed{seed}"

    def result(self, outcome: Outcome, out: Path) -> Sweep:
        """A row for each value that has a finished run."""
        rows, runs = [], []
        for text, value in self.values.items():
            names = {seed: self.run_of(text, seed) for seed in self.seeds}
            done = {seed: name for seed, name in names.items() if name in outcome.summaries}
            if done:
                means = over_seeds([outcome.summaries[name] for name in done.values()])
                rows.append(SweepRow(value=value, **vars(means)))
            runs += [SweepRun(name, value, seed) for seed, name in done.items()]
        return Sweep(
            task=task_of(outcome, self.recipe),
            key=self.key,
            model=self.recipe.model.name,
            data=self.recipe.data.name,
            epochs=self.recipe.schedule.epochs,
            rows=tuple(rows),
            runs=tuple(runs),
            failed=outcome.failures,
        )


def sweep_setting(
    plan: SweepPlan, out: str | Path, *, workers: Workers | None = None, after_run: AfterRun | None = None
) -> Sweep:
    """Train and evaluate what a plan needs, and write ``sweep.json``; see ``carry_out``."""
    return carry_out(plan, out, workers=workers, after_run=after_run)


def _value(recipe: Recipe, key: str) -> Any:
    """A setting's value in a recipe, plain."""
    mapping = recipe.to_mapping()
    try:
        return reduce(lambda part, word: part[word], key.split("."), mapping)
    except (KeyError, TypeError):
        raise UsageError(f"{key} is a section, not a setting; name one in it, such as method.balance") from None
