"""Many independent runs, each in a process of its own: which are to do, and what came of them.

Runs that have finished are kept and not repeated, interrupted ones go on, and one that fails does not stop the others:
its error is kept beside it, and the next call tries it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from stimulative import files
from stimulative.data import View
from stimulative.errors import UsageError
from stimulative.runs import RunDirectory, Score, Summary
from stimulative.studies.cluster import on_cluster
from stimulative.studies.jobs import AfterRun, Job, Outcome, Workers
from stimulative.studies.processes import on_this_machine
from stimulative.studies.working import Failure
from stimulative.training import changes_of_recipe

FAILURE = "failure.txt"


def run_all(
    jobs: Mapping[str, Job],
    out: Path,
    *,
    workers: Workers | None = None,
    after_run: AfterRun | None = None,
) -> Outcome:
    """Train and measure runs, each in a directory of ``out`` that has its name.

    Args:
        jobs: The runs by name, in the order in which they start. The first one is the reference: where recipes leave
            open which images statistics come from, all take what suits it, and it is trained before the others.
        out: The directory that they are in.
        workers: Where they are computed; one after the other on this machine by default.
        after_run: Called with the name and the summary of each run that has finished, now or before.

    Raises:
        UsageError: If a directory holds a run of another recipe, or the cluster cannot be reached.
    """
    check_directories(jobs, out)
    files.make_directory(out)
    workers = workers or Workers()
    outcome = Outcome({}, {})
    waiting: dict[str, Job] = {}
    for name, job in jobs.items():
        try:
            summary = finished(out / name, job)
        except UsageError as error:
            outcome.failed[name] = f"{error}; remove {out / name} to train it again"
            continue
        if summary is None:
            waiting[name] = job
        else:
            outcome.summaries[name] = summary
            if after_run is not None:
                after_run(name, summary)
    _compute(waiting, outcome, out, workers, after_run)
    outcome.summaries = {name: outcome.summaries[name] for name in jobs if name in outcome.summaries}
    return outcome


def _compute(
    waiting: dict[str, Job],
    outcome: Outcome,
    out: Path,
    workers: Workers,
    after_run: AfterRun | None,
) -> None:
    """Compute the runs that are to do, alone those that the view of the training images is to be learned from."""
    compute = on_this_machine if workers.cluster is None else on_cluster
    while waiting:
        view = _view_of(outcome)
        undecided = [name for name, job in waiting.items() if job.recipe.evaluation.calibration == "auto"]
        alone = undecided[:1] if view is None and len(undecided) > 1 else []
        now = {name: waiting.pop(name) for name in alone or [*waiting]}
        for name, result in compute(now, out, workers, view):
            if isinstance(result, Failure):
                outcome.failed[name] = result.error
                (out / name).mkdir(exist_ok=True)
                files.write_text(out / name / FAILURE, result.details)
                continue
            (out / name / FAILURE).unlink(missing_ok=True)
            outcome.summaries[name] = result
            if after_run is not None:
                after_run(name, result)


def _view_of(outcome: Outcome) -> View | None:
    """The view of the training images that the runs take, as one that has finished says; None before that."""
    summary = next(iter(outcome.summaries.values()), None)
    if summary is None:
        return None
    # without a record it keeps no statistics, or is of a version that knew the view of training only
    return "training" if summary.calibration is None else summary.calibration.view


def check_directories(jobs: Mapping[str, Job], out: Path) -> None:
    """Make sure that no run would be written over one of another recipe.

    Raises:
        UsageError: If one would.
    """
    for name, job in jobs.items():
        run = RunDirectory(files.inside(out, name))
        if run.started and changes_of_recipe(run.recipe.to_mapping(), job.recipe):
            raise UsageError(
                f"{run.path} holds a run of another recipe; choose another directory with out=, or remove it"
            )


def finished(directory: Path, job: Job) -> Summary | None:
    """The summary of a run that is trained and measured as a job asks; None for any other.

    Raises:
        UsageError: If its files are damaged.
    """
    run = RunDirectory(directory)
    if not run.finished:
        return None
    summary, _ = run.summary, run.weights
    if job.subnets is None:
        return summary if summary.subnets.evaluated else None
    return summary if measured_scores(directory).keys() >= set(job.subnets) else None


def measured_scores(directory: Path) -> dict[str, Score]:
    """The score of each subnet of a run that has been measured, by its text."""
    return {str(member.subnet): member.score for member in RunDirectory(directory).family}
