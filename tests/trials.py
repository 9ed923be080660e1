"""Many trials of some kinds, in processes of their own, some at once.

A trial that ends its process is counted, and the next ones go on. Each is drawn from a seed, so that one that failed
can be repeated alone.
"""

import multiprocessing
import os
import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """How a trial ended, how long it took, and what is to be said of that."""

    end: str
    seconds: float
    details: str = ""


@dataclass(frozen=True)
class Tried(Outcome):
    """A trial of a kind: its number, and what it was in words."""

    kind: str = ""
    number: int = 0
    text: str = ""


Try = Callable[[random.Random], tuple[str, Outcome]]
"""Draws a trial and makes it: what it was in words, and how it ended."""
Prepare = Callable[[str, Path], Try]
"""Prepares the trials of a kind in a directory; a function of a module, since it is sent to other processes."""


def tried(prepare: Prepare, kind: str, count: int, *, seed: int, lanes: int, patience: float) -> list[Tried]:
    """Make the trials of a kind.

    Args:
        prepare: Prepares them.
        kind: The kind.
        count: How many.
        seed: Another seed draws others.
        lanes: How many at once.
        patience: Seconds after which one that says nothing is taken for hanging.
    """
    found: list[Tried] = []
    running = {}
    for lane in range(min(lanes, count)):
        receiver, state = _start(prepare, kind, range(lane, count, lanes), seed)
        running[receiver] = state
    while running:
        ready = wait(list(running), timeout=patience)
        for receiver in ready or list(running):
            numbers, process, at = running[receiver]
            message = _received(receiver) if ready else None
            if isinstance(message, int):
                running[receiver] = numbers, process, message
                continue
            if isinstance(message, Tried):
                found.append(message)
                continue
            del running[receiver]
            process.kill()
            process.join()
            if message == "done":
                continue
            if at is None:
                raise RuntimeError(f"trials of the kind {kind!r} cannot be prepared; see one with --number 0")
            end = "traceback" if ready else "hang"
            found.append(Tried(end, patience, f"its process ended with status {process.exitcode}", kind, at))
            rest = range(at + numbers.step, numbers.stop, numbers.step)
            if rest:
                receiver, state = _start(prepare, kind, rest, seed)
                running[receiver] = state
    return sorted(found, key=lambda one: one.number)


def repeated(prepare: Prepare, kind: str, number: int, *, seed: int) -> Tried:
    """Make one trial, in this process."""
    with tempfile.TemporaryDirectory() as place:
        text, outcome = prepare(kind, Path(place))(_draw(kind, seed, number))
    return Tried(**vars(outcome), kind=kind, number=number, text=text)


def _draw(kind: str, seed: int, number: int) -> random.Random:
    return random.Random(f"{kind} {seed} {number}")


def _received(receiver: Connection) -> Any:
    try:
        return receiver.recv()
    except EOFError:
        return None


def _start(prepare: Prepare, kind: str, numbers: range, seed: int) -> tuple[Connection, tuple[range, Any, int | None]]:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_lane, args=(sender, prepare, kind, numbers, seed))
    process.start()
    sender.close()
    return receiver, (numbers, process, None)


def _lane(sender: Connection, prepare: Prepare, kind: str, numbers: range, seed: int) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    with tempfile.TemporaryDirectory() as place:
        make = prepare(kind, Path(place))
        for number in numbers:
            sender.send(number)
            text, outcome = make(_draw(kind, seed, number))
            sender.send(Tried(**vars(outcome), kind=kind, number=number, text=text))
        sender.send("done")
        os.chdir("/")
