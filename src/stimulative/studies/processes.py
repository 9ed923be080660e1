"""Runs as processes on this machine, some at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from stimulative.config import Recipe
from stimulative.data import View
from stimulative.ranks import gpus_of_job
from stimulative.runs import Summary
from stimulative.studies.jobs import Job, Workers
from stimulative.studies.working import Failure, Work

_PRELOADED = ["stimulative.studies.working", "stimulative.analysis", "stimulative.training", "lightning.fabric", "timm"]


def on_this_machine(
    jobs: Mapping[str, Job], out: Path, workers: Workers, view: View | None = None
) -> Iterator[tuple[str, Summary | Failure]]:
    """Compute runs, each in a fresh process; those that still run are ended when this one is.

    Args:
        jobs: The runs by name, in the order in which they start.
        out: The directory that they are in.
        workers: How many run at once.
        view: Which view of the training images statistics come from, where recipes leave it open.

    Yields:
        The name of each run that has ended, and what came of it.
    """
    from multiprocessing.connection import Connection, wait

    # a fork server imports the libraries once, and each run starts from there in a few milliseconds
    context: Any = multiprocessing.get_context("spawn" if sys.platform == "win32" else "forkserver")
    if sys.platform != "win32":
        context.set_forkserver_preload(_PRELOADED)
        _start_fork_server()
    gpus = visible_gpus() if workers.jobs > 1 else ()
    several = workers.jobs > 1
    threads = max(1, (os.cpu_count() or 1) // workers.jobs) if several else None
    waiting = list(jobs.items())[::-1]
    running: dict[Connection, tuple[str, Any]] = {}
    slots: dict[Connection, int] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers.jobs:
                name, job = waiting.pop()
                work = Work(job.recipe.to_yaml(), str(out / name), job.subnets, threads, several, workers.jobs, view)
                receiver, sender = context.Pipe(duplex=False)
                slots[receiver] = min(set(range(workers.jobs)) - set(slots.values()))
                own = gpus_of_job(slots[receiver], devices_of(job.recipe), gpus)
                process = context.Process(target=_send, args=(sender, os.getcwd(), own, work), name=name)
                process.start()
                sender.close()
                running[receiver] = name, process
            for receiver in wait(list(running)):
                assert isinstance(receiver, Connection)
                name, process = running.pop(receiver)
                del slots[receiver]
                result = _received(receiver, process)
                process.join()
                receiver.close()
                yield name, result
    finally:
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            process.join()


def _received(receiver: Any, process: Any) -> Summary | Failure:
    try:
        return receiver.recv()
    except EOFError:
        process.join()
        message = "its process was killed, perhaps for want of memory"
        if process.exitcode > 0:  # a process begins with importing the main module, and tells of errors in that itself
            message = (
                f"its process ended with status {process.exitcode} before it had begun; in a script, what starts runs "
                "has to stand under if __name__ == '__main__':"
            )
        return Failure(message, message)


def _start_fork_server() -> None:
    """Start the fork server deaf to Ctrl-C, which is for its parent; it would be interrupted in its imports."""
    from multiprocessing import forkserver

    if threading.current_thread() is not threading.main_thread():
        return  # where signals cannot be set, they do not arrive either
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        forkserver.ensure_running()
    finally:
        signal.signal(signal.SIGINT, before)


def devices_of(recipe: Recipe) -> int:
    """How many processes of this machine a run takes."""
    return 1 if recipe.training.devices == "auto" else recipe.training.devices


def visible_gpus() -> tuple[str, ...]:
    """The GPUs that there are for runs, as ``CUDA_VISIBLE_DEVICES`` names them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    numbers = [str(number) for number in range(torch.cuda.device_count())]
    return tuple(numbers if named is None else named.split(",")[: len(numbers)])


def _send(sender: Any, here: str, gpus: tuple[str, ...], work: Work) -> None:
    # Ctrl-C reaches all processes of a terminal at once; this one ends when its parent says so, and without a word
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(KeyboardInterrupt, BrokenPipeError):
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        threading.Thread(target=_end_with_parent, daemon=True).start()
        if sys.platform != "win32":
            # Its loaders start their workers anew for each pass, from a fork server of its own; without this, each
            # worker would import the libraries for seconds.
            multiprocessing.set_forkserver_preload(_PRELOADED)
        if gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        os.chdir(here)  # a process starts where its parent did, which may be elsewhere by now
        sender.send(work.do())


def _end_with_parent() -> None:
    """End this process once its parent is gone, which may have been killed and could not see to it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
