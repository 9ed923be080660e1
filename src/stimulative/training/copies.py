"""Processes that train beside this one on this machine, started and watched by it.

Each is a fresh Python that is sent the recipe and knows nothing of this one's ``__main__``: neither a script nor a
command line is run again. They write nothing, say nothing, and end with this process, however that ends; if one of them
ends early, this one tells of it.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, Pipe, wait
from types import FunctionType
from typing import Any

import torch
from torch import distributed

from stimulative.errors import UsageError
from stimulative.extension import is_trusting, trusting
from stimulative.ranks import World

_PATIENCE = 8.0
"""Seconds in which this process has to notice by itself that another one has gone, before exchanges are broken off."""

_BEGIN = (
    "import sys; sys.path[:], sys.argv[1:] = sys.argv[1:], []; "
    "from stimulative.training.copies import train_as_copy; train_as_copy()"
)
"""What a copy runs: modules are found where this process finds them, and nothing else is the same before it is sent."""

_INTERFACE = "GLOO_SOCKET_IFNAME"


class ProcessLost(RuntimeError):
    """Another of the processes that train together has ended, so that none of them can go on."""


@dataclass(frozen=True)
class Copied:
    """What a copy is sent.

    Args:
        world: Its place.
        first: The process that has started it.
        trusts: Whether names of files are trusted.
        threads: CPU threads to compute with.
        arguments: What its ``Trainer`` is made of, by name, pickled.
    """

    world: World
    first: int
    trusts: bool
    threads: int
    arguments: bytes


class Copies:
    """Processes that train beside this one, until they are closed or nobody knows of them any more.

    Args:
        world: The place of this process, the first; a copy is started for each other one of its node.
        arguments: What a ``Trainer`` is made of, by name.

    Attributes:
        store: Where they find each other.

    Raises:
        UsageError: If the arguments cannot be sent.
        ProcessLost: If one of them ends before it can train.
    """

    def __init__(self, world: World, arguments: Mapping[str, Any]) -> None:
        sent = _sent(world, arguments)
        port, self.store = _meeting(world.size)
        self._size = world.size
        self._processes: list[subprocess.Popen[bytes]] = []
        self._said: dict[int, str] = {}
        self._closed = threading.Event()
        threads = torch.get_num_threads()
        torch.set_num_threads(max(1, threads // world.size))
        # holds nothing of this object, which a Trainer that is never run takes with it
        self._end = weakref.finalize(self, _end, self._processes, self._closed, threads)
        try:
            running = self._started(world, port)
            for channel, (rank, _) in running.items():
                place = replace(world, rank=rank, local_rank=rank, port=port)
                copied = Copied(place, os.getpid(), is_trusting(), torch.get_num_threads(), sent)
                with suppress(OSError):  # one that has gone says so below
                    channel.send_bytes(pickle.dumps(copied))
            for channel, (rank, process) in running.items():
                if (said := _received(channel, process)) is not None:
                    raise ProcessLost(_in_words(rank, world.size, said))
        except BaseException:
            self._end()
            raise
        watching = running, self._said, self._closed, world.size
        threading.Thread(target=_watch, args=watching, daemon=True).start()

    def _started(self, world: World, port: int) -> dict[Connection, tuple[int, subprocess.Popen[bytes]]]:
        """Start the processes: the rank of each, by what it is spoken to by."""
        started: dict[Connection, tuple[int, subprocess.Popen[bytes]]] = {}
        before = _deaf_to_ctrl_c()
        try:
            for rank in range(1, world.size):
                place = replace(world, rank=rank, local_rank=rank, port=port)
                here, there = Pipe()
                with there:
                    environment = {**os.environ, **place.variables(), **_loopback()}
                    # -P: what lies in the current directory does not stand in for Python's own modules
                    command = [sys.executable, "-P", "-c", _BEGIN, *map(str, sys.path)]
                    self._processes.append(subprocess.Popen(command, stdin=there.fileno(), env=environment))
                started[here] = rank, self._processes[-1]
        finally:
            if before is not None:
                signal.signal(signal.SIGINT, before)
        return started

    def lost(self) -> str | None:
        """What became of the first one that has ended early, in words; None if all go on a moment later, too."""
        until = time.monotonic() + _PATIENCE / 2
        while not self._said and time.monotonic() < until:
            time.sleep(0.05)
        return _in_words(min(self._said), self._size, self._said[min(self._said)]) if self._said else None

    def close(self, *, well: bool) -> None:
        """End them.

        Args:
            well: Whether they come to their end by themselves, which is waited for.
        """
        self._closed.set()
        if distributed.is_initialized():
            distributed.destroy_process_group()
        for process in self._processes if well else ():
            with suppress(subprocess.TimeoutExpired):
                process.wait(_PATIENCE)
        self._end()


@contextmanager
def on_this_machine() -> Iterator[None]:
    """Within, processes that find each other listen to this machine alone."""
    before = os.environ.get(_INTERFACE)
    os.environ.update(_loopback())
    try:
        yield
    finally:
        os.environ.pop(_INTERFACE, None)
        if before is not None:
            os.environ[_INTERFACE] = before


def _loopback() -> dict[str, str]:
    """The variable by which gloo listens to this machine alone."""
    names = [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]
    return {_INTERFACE: names[0]} if names else {}


def _meeting(size: int) -> tuple[int, Any]:
    """A port of this machine alone, and a store that listens there."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        kind: Any = distributed.TCPStore  # pyright: ignore[reportPrivateImportUsage]
        descriptor = listening.detach()
        return port, kind("127.0.0.1", port, size, True, wait_for_workers=False, master_listen_fd=descriptor)


class _Pickler(pickle.Pickler):
    """Pickles what a process without this one's ``__main__`` can read."""

    def reducer_override(self, thing: Any) -> Any:
        """Refuse what stands in ``__main__``."""
        if isinstance(thing, type | FunctionType) and thing.__module__ in ("__main__", "__mp_main__"):
            raise pickle.PicklingError(
                f"{thing.__qualname__} is of the script itself, which is not run again; import it"
            )
        return NotImplemented


def _pickled(value: Any) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer).dump(value)
    return buffer.getvalue()


def _sent(world: World, arguments: Mapping[str, Any]) -> bytes:
    """The arguments as they are sent to copies; whether they can be is found out before one is started."""
    launch = f"start the script by torchrun --nproc-per-node {world.size}, whose processes each make their own"
    if arguments.get("data") is not None:
        raise UsageError(
            "data= is of this process alone, and cannot be divided among those that it would start: "
            f"{launch}, or name a function that opens the data in the recipe (data.name: package.module:name)"
        )
    for name, value in arguments.items():
        try:
            _pickled(value)
        except Exception as error:  # whatever the classes in it raise
            raise UsageError(f"{name}= cannot be sent to other processes ({error}): {launch}") from error
    return _pickled(dict(arguments))  # at once, so that what they have in common stays one


def _watch(
    running: Mapping[Any, tuple[int, subprocess.Popen[bytes]]], told: dict[int, str], closed: threading.Event, size: int
) -> None:
    """Keep what the first to end early have said; break off what this process exchanges with one that has gone."""
    waiting = dict(running)
    while waiting and not told and not closed.is_set():
        for channel in wait(list(waiting), timeout=0.5):
            rank, process = waiting.pop(channel)
            said = _received(channel, process)
            if said is not None:
                told[rank] = said
    # one that has ended well has done so with all. Gloo notices the end of another by itself, and NCCL waits
    if told and not closed.wait(_PATIENCE) and distributed.group.WORLD is not None:
        distributed.group.WORLD.abort()


def _in_words(rank: int, size: int, said: str) -> str:
    return f"process {rank} of the {size} that train together {said}"


def _received(channel: Any, process: subprocess.Popen[bytes]) -> str | None:
    """What a copy says next, or became of it; None if all is well."""
    try:
        return channel.recv()
    except (EOFError, OSError):
        code = process.wait()
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"


def _end(processes: list[subprocess.Popen[bytes]], closed: threading.Event, threads: int) -> None:
    """End processes, and with them what this one has been for them."""
    closed.set()
    for process in processes:
        if process.poll() is None:
            process.kill()
    for process in processes:
        process.wait()
    torch.set_num_threads(threads)
    if processes and distributed.is_initialized():
        distributed.destroy_process_group()


def _deaf_to_ctrl_c() -> Any:
    """Let processes be born deaf to Ctrl-C, which is for the first of them; what was done before."""
    if threading.current_thread() is not threading.main_thread():
        return None
    return signal.signal(signal.SIGINT, signal.SIG_IGN)


def train_as_copy() -> None:
    """Train as a copy, as the process says that has started this one and speaks by its standard input."""
    channel = Connection(os.dup(0))
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    copied: Copied = pickle.loads(channel.recv_bytes())
    threading.Thread(target=_end_with_first, args=(copied,), daemon=True).start()
    torch.set_num_threads(copied.threads)
    said = None
    try:
        with trusting() if copied.trusts else nullcontext():
            from stimulative.training.devices import joined
            from stimulative.training.trainer import Trainer

            arguments = pickle.loads(copied.arguments)
            channel.send(None)
            joined(copied.world)
            Trainer(**arguments, progress=False).run()
    except KeyboardInterrupt:
        pass  # all of them were asked to stop, and have saved
    except Exception as error:
        line = traceback.format_exception_only(error)[-1].strip()
        said = f"has failed: {line}"
    with suppress(OSError):
        channel.send(said)
    for worker in multiprocessing.active_children():  # of loaders
        worker.terminate()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # Python would take seconds to take all modules apart, and the first process waits


def _end_with_first(copied: Copied) -> None:
    """End this process once the first one is gone: what was trained stands in its checkpoint."""
    while os.getppid() == copied.first:
        time.sleep(0.2)
    if copied.world.rank == 1:  # one speaks for all
        print(
            f"stimulative: process 0 of the {copied.world.size} that train together has ended; go on with its last "
            "checkpoint (resume=True)",
            file=sys.stderr,
            flush=True,
        )
    os._exit(1)
