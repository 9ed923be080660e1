"""Inputs in processes of their own, some at once; one that ends its process is counted, and the next ones go on."""

import multiprocessing
import os
import random
import tempfile
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from fuzz.judging import SECONDS, Outcome, judge, limit_memory
from fuzz.kinds import kinds

PATIENCE = 3 * SECONDS
"""Seconds after which an input that no alarm ends is a hang."""


@dataclass(frozen=True)
class Tried(Outcome):
    """What came of an input of a kind: its number, and what it was in words."""

    kind: str = ""
    number: int = 0
    text: str = ""


def tried(kind: str, count: int, seed: int, lanes: int) -> list[Tried]:
    """Try the inputs of a kind."""
    found: list[Tried] = []
    running = {}
    for lane in range(lanes):
        receiver, state = _start(kind, range(lane, count, lanes), seed)
        running[receiver] = state
    while running:
        ready = wait(list(running), timeout=PATIENCE)
        for receiver in ready or list(running):
            numbers, process, at = running[receiver]
            try:
                message: Any = receiver.recv() if ready else None
            except EOFError:
                message = None
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
                raise RuntimeError(f"inputs of the kind {kind!r} cannot be made; try one: --only {kind!r} --number 0")
            end = "traceback" if ready else "hang"
            found.append(Tried(end, PATIENCE, f"its process ended with status {process.exitcode}", kind, at))
            rest = range(at + numbers.step, numbers.stop, numbers.step)
            if rest:
                receiver, state = _start(kind, rest, seed)
                running[receiver] = state
    return sorted(found, key=lambda one: one.number)


def _start(kind: str, numbers: range, seed: int) -> tuple[Connection, tuple[range, Any, int | None]]:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_lane, args=(sender, kind, numbers, seed), daemon=True)
    process.start()
    sender.close()
    return receiver, (numbers, process, None)


def _lane(sender: Connection, kind: str, numbers: range, seed: int) -> None:
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    with tempfile.TemporaryDirectory() as place:
        made = kinds()[kind][0](Path(place))
        limit_memory()
        for number in numbers:
            sender.send(number)
            text, do = made.input(random.Random(f"{kind} {seed} {number}"))
            outcome = judge(do)
            sender.send(Tried(**vars(outcome), kind=kind, number=number, text=text))
        sender.send("done")
        os.chdir("/")
