"""The kinds of faults, and how many trials are made of each."""

import os
import random
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from trials import Outcome, Try

from faults.command import Faulty
from faults.damaged import Damaged
from faults.disks import FullDisk, ReadOnly
from faults.kept import Kept
from faults.killed import ASKING, KilledCommand, KilledStudy, KilledTraining
from faults.shared import DeadWorkers, TwoWriters


class Fault(Protocol):
    """A kind of faults."""

    def once(self, draw: random.Random, place: Path) -> tuple[str, str]:
        """Draw a fault, and let it happen in a directory.

        Returns:
            What it was, and how it ended.

        Raises:
            Faulty: If it ended as none may.
        """
        ...


KILL = (signal.SIGKILL,)
EXPORT = "export RUN --subnet 2-1-3 --format safetensors --force --out OUT.safetensors"
PACK = "pack RUN --subnets 3-3-3 1-1-1 --force --out OUT.safetensors"
KINDS: dict[str, tuple[Callable[[Kept], Fault], int]] = {
    "train killed": (lambda kept: KilledTraining(kept, KILL), 50),
    "train asked to end": (lambda kept: KilledTraining(kept, ASKING), 50),
    "evaluate killed": (lambda kept: KilledCommand(kept, "evaluate RUN --no-latency", (*KILL, *ASKING[:2])), 24),
    "export killed": (lambda kept: KilledCommand(kept, EXPORT), 20),
    "pack killed": (lambda kept: KilledCommand(kept, PACK), 20),
    "report killed": (lambda kept: KilledCommand(kept, "report RUN --out OUT"), 10),
    "compare killed": (KilledStudy, 6),
    "bits of a run": (lambda kept: Damaged(kept, finished=True, gone=False), 60),
    "bits of a stopped run": (lambda kept: Damaged(kept, finished=False, gone=False), 30),
    "files of a run": (lambda kept: Damaged(kept, finished=True, gone=True), 30),
    "files of a stopped run": (lambda kept: Damaged(kept, finished=False, gone=True), 20),
    "full disk": (FullDisk, 30),
    "read-only": (ReadOnly, 16),
    "two writers": (TwoWriters, 16),
    "dead workers": (DeadWorkers, 4),
}
COUNTS = {kind: count for kind, (_, count) in KINDS.items()}


ANY = "any"
_SLOW = "report killed", "compare killed", "dead workers"


def prepare(kind: str, place: Path) -> Try:
    """Prepare the trials of a kind, or of any that takes seconds.

    This process has a key of its own, by which runs are its user's.
    """
    os.environ["XDG_STATE_HOME"] = str(place / "state")
    kept = Kept(place)
    faults = {
        name: make(kept) for name, (make, _) in KINDS.items() if kind == name or (kind == ANY and name not in _SLOW)
    }

    def make(draw: random.Random) -> tuple[str, Outcome]:
        start, directory = time.monotonic(), Path(tempfile.mkdtemp(dir=place))
        fault = faults[draw.choice(list(faults))]
        try:
            text, end = fault.once(draw, directory)
            return text, Outcome(end, time.monotonic() - start)
        except Faulty as error:
            return str(directory), Outcome(error.end, time.monotonic() - start, str(error))
        except Exception:
            return str(directory), Outcome("traceback", time.monotonic() - start, traceback.format_exc())
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    return make
