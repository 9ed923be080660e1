"""What comes of an input."""

import contextlib
import io
import resource
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from trials import Outcome

from stimulative.errors import UsageError

SECONDS = 10.0
"""How long an input may take."""
ROOM = 4 << 30
"""Bytes that all inputs of a process may take together, beyond what it has when it begins."""


class Begun(BaseException):
    """The input is taken: what would follow is work."""


class Wrong(AssertionError):
    """Something else came out than should, without a word."""


class TooLong(BaseException):
    """The time is over."""


def judge(do: Callable[[], Any]) -> Outcome:
    """Try an input."""
    before = signal.signal(signal.SIGALRM, _over)
    left, _ = signal.setitimer(signal.ITIMER_REAL, SECONDS)
    start, said = time.perf_counter(), ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            do()
        end = "taken"
    except Begun:
        end = "taken"
    except UsageError as error:
        end, said = "refused", str(error)
    except TooLong:
        end, said = "hang", traceback.format_exc()
    except Wrong as error:
        end, said = "wrong", str(error)
    except BaseException:
        end, said = "traceback", traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, left)  # of somebody who watches over this
    return Outcome(end, time.perf_counter() - start, said)


def limit_memory() -> None:
    """Let this process have ROOM from here on, so that what asks for more fails at once."""
    with open("/proc/self/status") as file:
        kilobytes = next(int(line.split()[1]) for line in file if line.startswith("VmData:"))
    most = kilobytes * 1024 + ROOM
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


@contextlib.contextmanager
def told() -> Iterator[Callable[[], str]]:
    """What is printed meanwhile, on both outputs."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        yield out.getvalue


def _over(*_: Any) -> None:
    raise TooLong
