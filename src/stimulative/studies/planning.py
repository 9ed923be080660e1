"""A plan: which runs a study needs, and what it makes of them. Every plan is carried out the same way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from stimulative.claiming import claimed
from stimulative.config import Recipe
from stimulative.errors import UsageError
from stimulative.methods import method_named
from stimulative.ranks import world_of_process
from stimulative.studies.jobs import AfterRun, Job, Outcome, Workers
from stimulative.studies.launching import run_all
from stimulative.studies.study import StudyOfRuns
from stimulative.tasks import TaskName
from stimulative.training import Stopping

_MOST_SEEDS = 1_000

Result = TypeVar("Result", bound=StudyOfRuns)
Results = TypeVar("Results", bound=StudyOfRuns, covariant=True)


class Plan(Protocol[Results]):
    """Which runs a study needs, and what it makes of them; making one finds out whether it can be carried out."""

    @property
    def recipe(self) -> Recipe:
        """The recipe that the runs are variants of."""
        ...

    @property
    def jobs(self) -> Mapping[str, Job]:
        """The runs by the names of their directories, in the order in which they start, the reference first."""
        ...

    def result(self, outcome: Outcome, out: Path) -> Results:
        """The result rows.

        Args:
            outcome: What came of the runs.
            out: The directory that they are in.
        """
        ...


def carry_out(
    plan: Plan[Result], out: str | Path, *, workers: Workers | None = None, after_run: AfterRun | None = None
) -> Result:
    """Train and measure what a plan needs, and write the file of the study.

    Runs in ``out`` that have finished are not repeated, interrupted ones go on, failed ones are tried again.

    Args:
        plan: The plan.
        out: The directory of the study; each run has a directory inside.
        workers: Where the runs are computed; one after the other on this machine by default.
        after_run: Called with the name and the summary of each run when it is done.

    Raises:
        UsageError: If ``out`` holds runs of another recipe or is in use, or the cluster cannot be reached.
    """
    out = Path(out)
    world = world_of_process()
    if world.size > 1:
        raise UsageError(
            f"{world.launcher} has started {world.size} processes, and a study starts those of its runs itself: run it "
            "once, with training.devices for each run"
        )
    with claimed(out, "a study"), Stopping().heard():
        outcome = run_all(plan.jobs, out, workers=workers, after_run=after_run)
        study = replace(plan.result(outcome, out), **_statistics(outcome))
        study.write(out)
    return study


def _statistics(outcome: Outcome) -> dict[str, Any]:
    """What the statistics of subnets were estimated on, by the fields of a study."""
    found = [summary for summary in outcome.summaries.values() if summary.subnets.calibration_images]
    views = {"training" if summary.calibration is None else summary.calibration.view for summary in found}
    images = max((summary.subnets.calibration_images or 0 for summary in found), default=0)
    return {"calibration": views.pop() if len(views) == 1 else None, "calibration_images": images}


def task_of(outcome: Outcome, recipe: Recipe) -> TaskName:
    """What the nets of a study are for, as its runs say; where none has finished, as the recipe's data do."""
    for summary in outcome.summaries.values():
        return summary.task
    return "text" if recipe.data.is_text else "images"


def check_methods(methods: Sequence[str], *, once: bool = True) -> None:
    """Check the methods that runs are to be trained by.

    Args:
        methods: Their names.
        once: Whether each may be named once only.

    Raises:
        UsageError: If there is none, one is unknown, or one is named twice.
    """
    if not methods:
        raise UsageError("no method given")
    for method in methods:
        method_named(method)
    if once and len(set(methods)) < len(methods):
        raise UsageError(f"each method may be named once, got {', '.join(methods)}")


def seeds_from(recipe: Recipe, count: int) -> range:
    """So many seeds, counted from the recipe's.

    Raises:
        UsageError: If there are none, or more than anybody trains.
    """
    if not 1 <= count <= _MOST_SEEDS:
        raise UsageError(f"the number of seeds is from 1 to {_MOST_SEEDS:,}, got {count}")
    return range(recipe.seed, recipe.seed + count)
