"""Many independent runs: each in a process of its own, on this machine or on a cluster.

Runs that have finished are kept and not repeated, interrupted ones go on, and one that fails does not stop the others:
its error is kept beside it, and the next call tries it again.
"""

from __future__ import annotations

import os
import signal
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from stimulative import files
from stimulative.analysis import evaluate
from stimulative.errors import UsageError
from stimulative.methods import METHODS
from stimulative.runs import SUMMARY, RunDirectory
from stimulative.training import Recipe, Score, load_recipe, train

FAILURE = "failure.txt"


@dataclass(frozen=True)
class Job:
    """A run to be trained.

    Args:
        recipe: Its recipe.
        subnets: Subnets to measure beside the main net, none of them if empty; by default those that the recipe says.
    """

    recipe: Recipe
    subnets: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Workers:
    """Where runs are computed.

    Args:
        jobs: How many at once.
        cluster: None for processes on this machine, or a cluster by submitit's name: ``slurm``, or ``local`` to try it.
        options: What submitit tells the cluster, such as ``{"slurm_partition": "gpu", "timeout_min": 60}``.
    """

    jobs: int = 1
    cluster: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.jobs < 1:
            raise UsageError(f"the number of jobs at once is 1 or more, got {self.jobs}")
        if self.options and self.cluster is None:
            raise UsageError(f"options of a cluster ({', '.join(self.options)}) need the cluster: --cluster slurm")


@dataclass
class Outcome:
    """What came of several runs.

    Args:
        summaries: The summaries of those that finished, by name, in the order in which they were asked for.
        failed: The errors of the others.
    """

    summaries: dict[str, dict[str, Any]]
    failed: dict[str, str]

    @property
    def failures(self) -> list[dict[str, str]]:
        """The failed runs as they stand in a JSON file."""
        return [{"run": name, "error": error} for name, error in self.failed.items()]


def run_all(
    jobs: Mapping[str, Job],
    out: Path,
    *,
    workers: Workers | None = None,
    after_run: Callable[[str, dict[str, Any]], Any] | None = None,
) -> Outcome:
    """Train and measure runs, each in a directory of ``out`` that has its name.

    Args:
        jobs: The runs by name, in the order in which they start.
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
    compute = _on_this_machine if workers.cluster is None else _on_cluster
    for name, result in compute(waiting, out, workers) if waiting else ():
        if isinstance(result, _Failure):
            outcome.failed[name] = result.error
            (out / name).mkdir(exist_ok=True)
            files.write_text(out / name / FAILURE, result.details)
            continue
        (out / name / FAILURE).unlink(missing_ok=True)
        outcome.summaries[name] = result
        if after_run is not None:
            after_run(name, result)
    outcome.summaries = {name: outcome.summaries[name] for name in jobs if name in outcome.summaries}
    return outcome


def check_directories(jobs: Mapping[str, Job], out: Path) -> None:
    """Make sure that no run would be written over one of another recipe.

    Raises:
        UsageError: If one would.
    """
    for name, job in jobs.items():
        run = RunDirectory(out / name)
        if run.started and run.recipe != job.recipe:
            raise UsageError(
                f"{run.path} holds a run of another recipe; choose another directory with --out, or remove it"
            )


def finished(directory: Path, job: Job) -> dict[str, Any] | None:
    """The summary of a run that is trained and measured as a job asks; None for any other."""
    run = RunDirectory(directory)
    if not run.finished:
        return None
    summary = run.summary.to_mapping()
    if job.subnets is None:
        return summary if summary["subnets"]["evaluated"] else None
    return summary if measured(directory).keys() >= set(job.subnets) else None


def measured(directory: Path) -> dict[str, float]:
    """The top-1 accuracy, in percent, of each subnet of a run that has been measured, by its text."""
    return {subnet: score.top1 for subnet, score in measured_scores(directory).items()}


def measured_scores(directory: Path) -> dict[str, Score]:
    """The score of each subnet of a run that has been measured, by its text."""
    return {str(member.subnet): member.score for member in RunDirectory(directory).family}


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
        if method not in METHODS:
            near = get_close_matches(method, METHODS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UsageError(f"unknown method {method!r}, known: {', '.join(METHODS)}{hint}")
    if once and len(set(methods)) < len(methods):
        raise UsageError(f"each method may be named once, got {', '.join(methods)}")


def seeds_from(recipe: Recipe, count: int) -> range:
    """So many seeds, counted from the recipe's.

    Raises:
        UsageError: If there are none.
    """
    if count < 1:
        raise UsageError(f"the number of seeds is 1 or more, got {count}")
    return range(recipe.seed, recipe.seed + count)


def spread(values: Sequence[float]) -> float:
    """The sample standard deviation over seeds; 0 for one seed."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def over_seeds(summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Main nets and families of runs that differ in their seed alone: means and spreads, in percent.

    Of text also perplexities, under ``main_perplexity`` and the like.
    """
    main = [summary["main"]["top1"] for summary in summaries]
    families = [summary["subnets"] for summary in summaries]
    return {
        "seeds": len(summaries),
        "main_mean": statistics.fmean(main),
        "main_std": spread(main),
        "all_mean": statistics.fmean(family["mean"] for family in families),
        "all_std": statistics.fmean(family["std"] for family in families),
        "all_mean_spread": spread([family["mean"] for family in families]),
        "all_min": statistics.fmean(family["min"] for family in families),
        **_perplexities_over_seeds(summaries),
    }


def _perplexities_over_seeds(summaries: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    if any("perplexity" not in part for summary in summaries for part in (summary["main"], summary["subnets"])):
        return {}
    main = [summary["main"]["perplexity"] for summary in summaries]
    families = [summary["subnets"]["perplexity"] for summary in summaries]
    return {
        "main_perplexity": statistics.fmean(main),
        "main_perplexity_std": spread(main),
        "all_perplexity": statistics.fmean(family["mean"] for family in families),
        "all_perplexity_std": statistics.fmean(family["std"] for family in families),
        "all_perplexity_max": statistics.fmean(family["max"] for family in families),
    }


@dataclass(frozen=True)
class _Failure:
    error: str
    details: str


def _work(
    recipe: str, directory: str, subnets: tuple[str, ...] | None, threads: int | None, quiet: bool, at_once: int
) -> Any:
    """Train and measure one run; in a process of its own."""
    import torch
    import yaml

    try:
        if threads is not None:
            torch.set_num_threads(threads)
        summary = train(load_recipe(yaml.safe_load(recipe)), directory, resume=True, progress=not quiet)
        if subnets != ():
            summary = evaluate(directory, subnets=subnets, latency=False)
        summary["runs_at_once"] = at_once
        files.write_json(Path(directory) / SUMMARY, summary)
        return summary
    except Exception as error:
        return _Failure(_described(error), traceback.format_exc())


def _described(error: Exception) -> str:
    """An error in a line; of those that are not ours, with their kind."""
    ours = type(error).__module__.startswith("stimulative")
    return str(error) if ours else f"{type(error).__name__}: {error}"


def _on_this_machine(jobs: Mapping[str, Job], out: Path, workers: Workers) -> Iterator[tuple[str, Any]]:
    import multiprocessing
    from multiprocessing.connection import Connection, wait

    # a fork server imports the libraries once, and each run starts from there in a few milliseconds
    context: Any = multiprocessing.get_context("spawn" if sys.platform == "win32" else "forkserver")
    if sys.platform != "win32":
        context.set_forkserver_preload(["stimulative.studies.launching", "lightning.fabric", "timm"])
        _start_fork_server()
    threads = max(1, (os.cpu_count() or 1) // workers.jobs) if workers.jobs > 1 else None
    waiting = list(jobs.items())[::-1]
    running: dict[Connection, tuple[str, Any]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers.jobs:
                name, job = waiting.pop()
                receiver, sender = context.Pipe(duplex=False)
                arguments = (
                    job.recipe.to_yaml(),
                    str(out / name),
                    job.subnets,
                    threads,
                    workers.jobs > 1,
                    workers.jobs,
                )
                process = context.Process(target=_send, args=(sender, *arguments), name=name)
                process.start()
                sender.close()
                running[receiver] = name, process
            for receiver in wait(list(running)):
                assert isinstance(receiver, Connection)
                try:
                    result = receiver.recv()
                except EOFError:
                    message = "its process was killed, perhaps for want of memory"
                    result = _Failure(message, message)
                name, process = running.pop(receiver)
                process.join()
                receiver.close()
                yield name, result
    finally:
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            process.join()


def _start_fork_server() -> None:
    """Start the fork server deaf to Ctrl-C, which is for its parent; it would be interrupted in its imports."""
    import threading
    from multiprocessing import forkserver

    if threading.current_thread() is not threading.main_thread():
        return  # where signals cannot be set, they do not arrive either
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        forkserver.ensure_running()
    finally:
        signal.signal(signal.SIGINT, before)


def _send(sender: Any, *arguments: Any) -> None:
    # Ctrl-C reaches all processes of a terminal at once; this one ends when its parent says so, and without a word
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt, BrokenPipeError):
        sender.send(_work(*arguments))


def _on_cluster(jobs: Mapping[str, Job], out: Path, workers: Workers) -> Iterator[tuple[str, Any]]:
    """Runs as jobs of submitit; jobs of an earlier call that still wait or run are waited for, not sent again."""
    executor = _executor(out / "cluster", workers)
    waiting = list(jobs.items())[::-1]
    sent: dict[str, Any] = {}
    while waiting or sent:
        while waiting and len(sent) < workers.jobs:
            name, job = waiting.pop()
            note = out / "cluster" / f"{name}.json"
            known = _known_job(executor, note)
            if known is None:
                known = executor.submit(_work, job.recipe.to_yaml(), str(out / name), job.subnets, None, True, 1)
                files.write_json(note, {"job": known.job_id})
            sent[name] = known
        for name in [name for name, job in sent.items() if job.done()]:
            job = sent.pop(name)
            error = job.exception()
            yield name, job.result() if error is None else _Failure(f"{error}".strip().splitlines()[0], f"{error}")
        time.sleep(0.2 if workers.cluster == "local" else 5)


def _executor(folder: Path, workers: Workers) -> Any:
    try:
        import submitit
    except ImportError as error:
        raise UsageError("--cluster needs submitit: pip install 'stimulative[cluster]'") from error
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster=workers.cluster)
        executor.update_parameters(name="stimulative", **workers.options)
    except (RuntimeError, ValueError, TypeError, NameError, AssertionError) as error:
        raise UsageError(f"the cluster {workers.cluster!r} cannot be used: {error}") from error
    return executor


def _known_job(executor: Any, note: Path) -> Any:
    """A job of an earlier call that waits or runs."""
    if not note.exists():
        return None
    job = executor._executor.job_class(folder=note.parent, job_id=files.read_json(note)["job"])
    return job if job.state in ("PENDING", "RUNNING", "CONFIGURING", "REQUEUED", "SUSPENDED") else None
