"""Runs as jobs of a cluster, through submitit."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stimulative import files
from stimulative.authorship import is_ours, mark
from stimulative.data import View
from stimulative.errors import UsageError
from stimulative.extension import HOW_TO_TRUST, is_trusting
from stimulative.runs import Summary
from stimulative.studies.jobs import Job, Workers
from stimulative.studies.working import Failure, Work


def on_cluster(
    jobs: Mapping[str, Job], out: Path, workers: Workers, view: View | None = None
) -> Iterator[tuple[str, Summary | Failure]]:
    """Compute runs; jobs of an earlier call that still wait or run are waited for, not sent again.

    Args:
        jobs: The runs by name, in the order in which they are sent.
        out: The directory that they are in; notes of what was sent are in ``cluster`` there.
        workers: The cluster, and how many runs it has at once.
        view: Which view of the training images statistics come from, where recipes leave it open.

    Yields:
        The name of each run that has ended, and what came of it.

    Raises:
        UsageError: If the cluster cannot be used.
    """
    _check_folder(out / "cluster")
    executor = _executor(out / "cluster", workers)
    waiting = list(jobs.items())[::-1]
    sent: dict[str, Any] = {}
    while waiting or sent:
        while waiting and len(sent) < workers.jobs:
            name, job = waiting.pop()
            note = out / "cluster" / f"{name}.json"
            known = _known_job(executor, note)
            if known is None:
                work = Work(job.recipe.to_yaml(), str(out / name), job.subnets, calibration=view)
                _ask_for_tasks(executor, job, workers)
                known = executor.submit(Sent(work))
                files.write_json(note, {"job": known.job_id})
            sent[name] = known
        for name in [name for name, job in sent.items() if job.done()]:
            job = sent.pop(name)
            error = job.exception()
            yield name, job.result() if error is None else Failure(f"{error}".strip().splitlines()[0], f"{error}")
        time.sleep(0.2 if workers.cluster == "local" else 5)


@dataclass(frozen=True)
class Sent:
    """A run as submitit sends it; one that is to make room is sent again, and goes on."""

    work: Work

    def __call__(self) -> Summary | Failure:
        """Compute it."""
        return self.work.do()

    def checkpoint(self) -> Any:
        """What is sent again, once training has saved where it stands."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _check_folder(folder: Path) -> None:
    """Make sure that jobs' results there are those of this user's jobs: submitit reads them as pickles, which run code.

    Raises:
        UsageError: If somebody else may have put some there.
    """
    note = files.inside(folder.parent, folder.name) / "authorship.json"
    text = f"jobs in {folder.resolve()}"
    if not folder.exists():
        folder.mkdir()
        files.write_json(note, {"folder": mark(text)})
    elif not is_trusting() and not (note.exists() and is_ours(text, _said(note))):
        raise UsageError(
            f"{folder} was not made by you on this machine, or was moved since, and results of jobs in it would run "
            f"code when they are read: remove it, or where you trust it, {HOW_TO_TRUST}"
        )


def _said(note: Path) -> object:
    content = files.read_json(note)
    return content.get("folder") if isinstance(content, dict) else None


def _executor(folder: Path, workers: Workers) -> Any:
    try:
        import submitit
    except ImportError as error:
        raise UsageError("cluster= needs submitit: pip install 'stimulative[cluster]'") from error
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster=workers.cluster)
        executor.update_parameters(name="stimulative", **workers.options)
    except (RuntimeError, ValueError, TypeError, NameError, AssertionError) as error:
        raise UsageError(f"the cluster {workers.cluster!r} cannot be used: {error}") from error
    return executor


def _ask_for_tasks(executor: Any, job: Job, workers: Workers) -> None:
    """Let Slurm start a task for each process of a run, unless the user has said how many.

    An executor keeps what it was told, so it is told of each run, also of one by a single process.
    """
    if workers.cluster != "slurm":
        return
    training, said = job.recipe.training, {key.removeprefix("slurm_") for key in workers.options}
    if "ntasks_per_node" in said:  # sbatch's name of it
        said.add("tasks_per_node")
    wanted = {"tasks_per_node": training.devices, "nodes": training.num_nodes}
    executor.update_parameters(
        **{key: 1 if value == "auto" else value for key, value in wanted.items() if key not in said}
    )


def _known_job(executor: Any, note: Path) -> Any:
    """A job of an earlier call that waits or runs."""
    if not note.exists():
        return None
    job = executor._executor.job_class(folder=note.parent, job_id=files.read_json(note)["job"])
    return job if job.state in ("PENDING", "RUNNING", "CONFIGURING", "REQUEUED", "SUSPENDED") else None
