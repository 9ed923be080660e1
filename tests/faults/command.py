"""Commands in processes that can be killed: forks of this one, which has imported libraries and computed nothing."""

import multiprocessing.util
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import lightning.fabric
import timm

import stimulative.analysis
import stimulative.deploy
import stimulative.report
import stimulative.studies
from stimulative.cli import main

IMPORTED = lightning.fabric, timm, stimulative.analysis, stimulative.deploy, stimulative.report, stimulative.studies
"""What commands import, so that each need not do it anew."""
LONGEST = 120.0
"""Seconds that a command may take."""


class Faulty(Exception):
    """A trial has ended as none may.

    Args:
        end: How: one of the suite's words.
        details: What is to be said of it.
    """

    def __init__(self, end: str, details: str) -> None:
        super().__init__(details)
        self.end = end


@dataclass(frozen=True)
class Ended:
    """How a command has ended: its exit status (minus a signal's number), and what it printed."""

    status: int
    out: str
    err: str

    @property
    def refused(self) -> bool:
        """Whether it says that it cannot be done."""
        return self.status in (1, 2) and bool(self.err.strip())


class Command:
    """A command that runs.

    Args:
        words: Its words.
        first: What its process does before.
    """

    def __init__(self, words: str, first: Callable[[], None] | None = None) -> None:
        self.words = words.split()
        self.out, self.err = (tempfile.TemporaryFile("w+", errors="replace") for _ in range(2))  # noqa: SIM115
        self.process = os.fork()
        if not self.process:
            self._run(first)

    def _run(self, first: Callable[[], None] | None) -> None:
        status = 70
        try:
            os.setsid()
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
            os.dup2(self.out.fileno(), 1)
            os.dup2(self.err.fileno(), 2)
            sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
            sys.stderr = open(2, "w", closefd=False, buffering=1)  # noqa: SIM115
            sys.argv = ["stimulative", *self.words]
            if first is not None:
                first()
            status = main(self.words)
        except BaseException:
            traceback.print_exc()
        finally:
            with suppress(BaseException):
                sys.stdout.flush()
                multiprocessing.util._exit_function()  # as at the end of a process that is no fork
            os._exit(status)

    def send(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        with suppress(ProcessLookupError):
            os.kill(self.process, number)

    def wait(self, seconds: float = LONGEST) -> Ended:
        """Wait for its end.

        Raises:
            Faulty: If it does not end, prints a traceback, or leaves processes that go on.
        """
        end = time.monotonic() + seconds
        while True:
            done, status = os.waitpid(self.process, os.WNOHANG)
            if done:
                break
            if time.monotonic() > end:
                os.killpg(self.process, signal.SIGKILL)
                os.waitpid(self.process, 0)
                raise Faulty("hang", f"{' '.join(self.words)} has not ended after {seconds:.0f} s")
            time.sleep(0.005)
        self._check_session()
        ended = Ended(os.waitstatus_to_exitcode(status), *(self._printed(file) for file in (self.out, self.err)))
        if "Traceback (most recent call last)" in ended.err + ended.out or ended.status == 70:
            raise Faulty("traceback", f"{' '.join(self.words)}: {ended.err}")
        return ended

    def _check_session(self) -> None:
        """Make sure that all its processes end with it, in a moment."""
        end = time.monotonic() + 10
        while left := processes_of(self.process):
            if time.monotonic() > end:
                said = [(process, _words_of(process)) for process in left]
                for process in left:
                    with suppress(ProcessLookupError):
                        os.kill(process, signal.SIGKILL)
                raise Faulty("left behind", f"{' '.join(self.words)} has ended, its processes have not: {said}")
            time.sleep(0.05)

    @staticmethod
    def _printed(file) -> str:
        file.seek(0)
        text = file.read()
        file.close()
        return text


def processes_of(session: int) -> list[int]:
    """The processes of a session that still run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(path.parent.name))
    return found


def _words_of(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def interrupted(words: str, number: int, moment: float) -> Ended:
    """A command that is sent a signal after a moment, once it has ended: done, or by the signal.

    Raises:
        Faulty: If it ends otherwise.
    """
    command = Command(words)
    time.sleep(moment)
    command.send(number)
    ended = command.wait()
    if ended.status not in (0, -number, 128 + number):
        raise Faulty("lost", f"status {ended.status}: {ended.err}")
    return ended


def placed(words: str, run: Path, out: Path) -> str:
    """Words in which RUN and OUT stand for a run, and for what is written in a directory."""
    return words.replace("RUN", str(run)).replace("OUT", str(out / "out"))


def done(words: str, first: Callable[[], None] | None = None) -> Ended:
    """A command that nothing happens to, done.

    Raises:
        Faulty: If it fails.
    """
    ended = Command(words, first).wait()
    if ended.status:
        raise Faulty("lost", f"{words}: status {ended.status}: {ended.err}")
    return ended
