"""Ending a training when the user or the system asks for it, without losing what it has done.

Clusters send SIGTERM before they take a machine away, Slurm SIGUSR1 or SIGUSR2 when it is told to warn, a person Ctrl-C
(SIGINT), a terminal that closes SIGHUP. While a net trains, each of them is heard and waits for the end of the step:
the state is saved, and ``TrainingStopped`` ends the training. A second Ctrl-C does not wait. Before and after, signals
do what they did; a handler that was there (submitit's, which sends the job again) is called once the state is saved.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_NAMES = "SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2", "SIGHUP"
SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))


_PATIENCE = 3.0
"""Seconds that a step may take to end before it is said what is waited for."""


def _tell(number: int) -> None:
    print(
        f"{signal.Signals(number).name}: training ends with the step that is under way, which takes long where code is "
        "compiled; what was trained is saved then. Ctrl-C once more does not wait",
        file=sys.stderr,
        flush=True,
    )


class TrainingStopped(KeyboardInterrupt):
    """A signal has stopped a training; it goes on from there with ``resume=True``.

    Attributes:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.number,)


class Stopping:
    """Hears signals while a net trains.

    Args:
        tells: Whether to say so where the end of a step is long in coming.

    Attributes:
        asked: The signal that has asked for the end; None before that.
    """

    def __init__(self, *, tells: bool = True) -> None:
        self.asked: int | None = None
        self.tells = tells
        self._telling: threading.Timer | None = None
        self._waits = False
        self._before: dict[int, Any] = {}

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Hear signals, where that is possible: in the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        try:
            for number in SIGNALS:
                handler = signal.getsignal(number)
                if handler not in (signal.SIG_IGN, None):  # what is ignored stays so, as under nohup
                    self._before[number] = handler
                    signal.signal(number, self._hear)
            yield
        finally:
            if self._telling is not None:
                self._telling.cancel()
            for number, handler in self._before.items():
                signal.signal(number, handler)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Within, a signal waits for ``end``; elsewhere it ends the training at once, since all of it is saved.

        Raises:
            TrainingStopped: If the compiler failed after the end was asked for: a signal to all processes ends those
                that it has started, too. What was saved last stays.
        """
        self._waits = True
        try:
            yield
        except Exception as error:
            if self.asked is None or not type(error).__module__.startswith("torch._"):
                raise
            raise TrainingStopped(self.asked) from error
        finally:
            self._waits = False

    def break_off(self) -> None:
        """End what is being done, if that was asked for.

        Raises:
            TrainingStopped: If it was.
        """
        if self.asked is not None:
            raise TrainingStopped(self.asked)

    def end(self) -> None:
        """End the training, if that was asked for, now that everything is saved.

        Where a handler of somebody else's was there for the signal, it is called, and training goes on if it returns.

        Raises:
            TrainingStopped: If it was, and nobody else handles the signal.
        """
        if self._telling is not None:
            self._telling.cancel()
        if self.asked is not None:
            number, self.asked = self.asked, None
            self._hand_on(number, None)

    def asked_meanwhile(self) -> bool:
        """Whether the end was asked for, or is now: a signal to all processes may reach those of a loader first."""
        for _ in range(20):
            if self.asked is not None:
                break
            time.sleep(0.05)
        return self.asked is not None

    def _hear(self, number: int, frame: FrameType | None) -> None:
        again = self.asked is not None and number == signal.SIGINT
        if self._waits and not again:
            if self.asked is None and self.tells:
                self._telling = threading.Timer(_PATIENCE, _tell, [number])
                self._telling.daemon = True
                self._telling.start()
            self.asked = self.asked or number
        else:
            self._hand_on(number, frame)

    def _hand_on(self, number: int, frame: FrameType | None) -> None:
        theirs = self._before.get(number)
        if not callable(theirs) or theirs is signal.default_int_handler:
            raise TrainingStopped(number)
        theirs(number, frame)
