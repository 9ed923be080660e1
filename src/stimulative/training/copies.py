"""Processes that train beside this one on this machine, started and watched by it.

Each is a fresh Python that is sent the recipe; neither a script nor a command line is run again. They write nothing,
say nothing, and end with this process, however that ends; if one of them ends early, this one tells of it.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from multiprocessing.util import Finalize
from typing import Any

import torch
from torch import distributed

from stimulative.errors import UsageError
from stimulative.extension import is_trusting, trusting
from stimulative.ranks import World

_PATIENCE = 8.0
"""Seconds in which this process has to notice by itself that another one has gone, before it is ended."""


@dataclass(frozen=True)
class Copied:
    """What a copy is sent.

    Args:
        world: Its place.
        here: The directory that it works in.
        trusts: Whether names of files are trusted.
        threads: CPU threads to compute with.
        arguments: What its ``Trainer`` is made of, by name.
    """

    world: World
    here: str
    trusts: bool
    threads: int
    arguments: Mapping[str, Any]


class Copies:
    """Processes that train beside this one.

    Args:
        world: The place of this process, the first; a copy is started for each other one of its node.
        arguments: What a ``Trainer`` is made of, by name.

    Attributes:
        world: The place of this process, with the port where all of them meet.
        store: Where they find each other.

    Raises:
        UsageError: If the arguments cannot be sent.
    """

    def __init__(self, world: World, arguments: Mapping[str, Any]) -> None:
        kind: Any = distributed.TCPStore  # pyright: ignore[reportPrivateImportUsage]
        self.store = kind("127.0.0.1", 0, world.size, is_master=True, wait_for_workers=False)
        self.world = replace(world, port=self.store.port)
        self._check(arguments)
        context = multiprocessing.get_context("spawn")
        self._running: dict[Any, tuple[int, Any]] = {}
        self._said: dict[int, str] = {}
        self._closed = threading.Event()
        self._threads = torch.get_num_threads()
        torch.set_num_threads(max(1, self._threads // world.size))
        before = _deaf_to_ctrl_c()
        try:
            for rank in range(1, world.size):
                receiver, sender = context.Pipe(duplex=False)
                there = replace(self.world, rank=rank, local_rank=rank)
                copied = Copied(there, os.getcwd(), is_trusting(), torch.get_num_threads(), arguments)
                process = context.Process(target=_train, args=(sender, copied), name=f"rank {rank}")
                process.start()
                sender.close()
                self._running[receiver] = rank, process
        finally:
            if before is not None:
                signal.signal(signal.SIGINT, before)
        # before multiprocessing waits for its processes at exit, where nobody has closed these
        processes = [process for _, process in self._running.values()]
        self._at_exit = Finalize(self, _kill, args=(processes,), exitpriority=9)
        threading.Thread(target=self._watch, daemon=True).start()

    def _check(self, arguments: Mapping[str, Any]) -> None:
        """Make sure that what a copy needs can be sent to it, before one is started."""
        launch = f"start the script by torchrun --nproc-per-node {self.world.size}, whose processes each make their own"
        if arguments.get("data") is not None:
            raise UsageError(
                "data= is of this process alone, and cannot be divided among those that it would start: "
                f"{launch}, or name a function that opens the data in the recipe (data.name: package.module:name)"
            )
        for name, value in arguments.items():
            try:
                pickle.dumps(value)
            except Exception as error:  # whatever the classes in it raise
                raise UsageError(f"{name}= cannot be sent to other processes ({error}): {launch}") from error

    def lost(self) -> str | None:
        """What became of the first one that has ended early, in words; None if all go on a moment later, too."""
        until = time.monotonic() + _PATIENCE / 2
        while not self._said and time.monotonic() < until:
            time.sleep(0.05)
        return self._said[min(self._said)] if self._said else None

    def close(self, *, well: bool) -> None:
        """End them.

        Args:
            well: Whether they come to their end by themselves, which is waited for.
        """
        self._closed.set()
        if distributed.is_initialized():
            distributed.destroy_process_group()
        processes = [process for _, process in self._running.values()]
        for process in processes:
            process.join(timeout=_PATIENCE if well else 0)
        _kill(processes)
        self._at_exit.cancel()
        torch.set_num_threads(self._threads)

    def _watch(self) -> None:
        """Keep what ended copies have said; end this process if it waits for one of them for ever."""
        waiting = dict(self._running)
        while waiting and not self._closed.is_set():
            for receiver in wait(list(waiting), timeout=0.5):
                rank, process = waiting.pop(receiver)
                said = _received(receiver, process)
                if said is not None:
                    self._said[rank] = f"process {rank} of the {self.world.size} that train together {said}"
        # one that has ended well has done so with all
        if self._said and not self._closed.wait(_PATIENCE):
            print(f"stimulative: {self._said[min(self._said)]}; all of them are ended", file=sys.stderr, flush=True)
            _kill([process for _, process in self._running.values()])
            os._exit(1)


def _received(receiver: Any, process: Any) -> str | None:
    """What became of a copy that has ended; None if all is well."""
    try:
        said = receiver.recv()
    except EOFError:
        process.join()
        code = process.exitcode
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
    return said


def _kill(processes: list[Any]) -> None:
    for process in processes:
        if process.is_alive():
            process.kill()
    for process in processes:
        process.join()


def _deaf_to_ctrl_c() -> Any:
    """Let processes be born deaf to Ctrl-C, which is for the first of them; what was done before."""
    if threading.current_thread() is not threading.main_thread():
        return None
    return signal.signal(signal.SIGINT, signal.SIG_IGN)


def _train(sender: Any, copied: Copied) -> None:
    """Train as a copy."""
    threading.Thread(target=_end_with_first, args=(copied.world,), daemon=True).start()
    os.environ.update(copied.world.variables())
    os.chdir(copied.here)
    torch.set_num_threads(copied.threads)
    said = None
    try:
        with trusting() if copied.trusts else nullcontext():
            from stimulative.training.trainer import Trainer

            Trainer(**copied.arguments, progress=False).run()
    except KeyboardInterrupt:
        pass  # all of them were asked to stop, and have saved
    except Exception as error:
        line = traceback.format_exception_only(error)[-1].strip()
        said = f"has failed: {line}"
    with suppress(OSError):
        sender.send(said)
    for worker in multiprocessing.active_children():  # of loaders
        worker.terminate()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # Python would take seconds to take all modules apart, and the first process waits


def _end_with_first(world: World) -> None:
    """End this process once the first one is gone: what was trained stands in its checkpoint."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    if world.rank == 1:  # one speaks for all
        print(
            f"stimulative: process 0 of the {world.size} that train together has ended; go on with its last checkpoint "
            "(resume=True)",
            file=sys.stderr,
            flush=True,
        )
    os._exit(1)
