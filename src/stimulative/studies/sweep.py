"""One setting of a recipe at several values, such as the balance in Fig. r3 of the paper."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from stimulative import files
from stimulative.errors import UsageError
from stimulative.records import Record
from stimulative.studies.launching import Job, Workers, over_seeds, run_all, seeds_from
from stimulative.studies.study import Failed, OverSeeds, Study
from stimulative.training import Recipe

SWEEP = "sweep.json"


@dataclass(frozen=True, kw_only=True)
class SweepRow(OverSeeds):
    """What a value of the setting has come to, over seeds.

    Args:
        value: The value.
    """

    value: Any


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
class Sweep(Study):
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
            raise UsageError("the seed is not swept: give the number of seeds instead (--seeds N)")
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


def sweep_setting(
    plan: SweepPlan,
    out: str | Path,
    *,
    workers: Workers | None = None,
    after_run: Callable[[str, dict[str, Any]], Any] | None = None,
) -> dict[str, Any]:
    """Train and evaluate what a plan needs, and write ``sweep.json``.

    Runs in ``out`` that have finished are not repeated, interrupted ones go on, failed ones are tried again.

    Args:
        plan: The plan.
        out: The directory of the sweep; each run has a directory inside.
        workers: Where the runs are computed; one after the other on this machine by default.
        after_run: Called with the name and the summary of each run when it is done.

    Returns:
        ``{"key", "model", "data", "epochs", "rows": [...], "runs": [...], "failed": [...]}``: a row for each value,
        accuracies in percent over seeds.

    Raises:
        UsageError: If ``out`` holds runs of another recipe.
    """
    out = Path(out)
    outcome = run_all(plan.jobs, out, workers=workers, after_run=after_run)
    rows, runs = [], []
    for text, value in plan.values.items():
        done = {seed: plan.run_of(text, seed) for seed in plan.seeds if plan.run_of(text, seed) in outcome.summaries}
        if done:
            rows.append({"value": value, **over_seeds([outcome.summaries[name] for name in done.values()])})
        runs += [{"run": name, "value": value, "seed": seed} for seed, name in done.items()]
    result = {
        "key": plan.key,
        "model": plan.recipe.model.name,
        "data": plan.recipe.data.name,
        "epochs": plan.recipe.schedule.epochs,
        "rows": rows,
        "runs": runs,
        "failed": outcome.failures,
    }
    files.write_json(out / SWEEP, result)
    return result


def _value(recipe: Recipe, key: str) -> Any:
    """A setting's value in a recipe, plain."""
    mapping = recipe.to_mapping()
    try:
        return reduce(lambda part, word: part[word], key.split("."), mapping)
    except (KeyError, TypeError):
        raise UsageError(f"{key} is a section, not a setting; name one in it, such as method.balance") from None
