"""Two processes in one directory, and processes of a command that die."""

import os
import random
import shutil
import signal
import time
from pathlib import Path

from faults.command import Command, Faulty, done, processes_of
from faults.kept import METHODS, TINY, Kept
from faults.results import check_whole, same_measured, same_training
from stimulative.runs import RECIPE, RunDirectory


class TwoWriters:
    """Of two trainings in one directory one is refused, and the other comes to the same as if it were alone.

    Args:
        kept: What it is compared with.
    """

    def __init__(self, kept: Kept) -> None:
        self.kept = kept

    def once(self, draw: random.Random, place: Path) -> tuple[str, str]:
        run, (one, two) = place / "run", draw.sample(METHODS, 2)
        if draw.random() < 0.3:
            return self._measure(draw, place)
        right = {settings: self.kept.trained(settings) for settings in (one, two)}
        pause = draw.uniform(0, 0.2 if draw.random() < 0.5 else right[one][1])
        first = Command(f"train digits --out {run} {TINY} {one}")
        time.sleep(pause)
        second = Command(f"train digits --out {run} {TINY} {two}")
        ended = {one: first.wait(), two: second.wait()}
        text = f"{one} and, after {pause:.2f} s, {two}"
        won = [settings for settings, end in ended.items() if end.status == 0]
        if len(won) != 1:
            raise Faulty("wrong", f"{text}: {ended}")
        (lost,) = set(ended) - set(won)
        if not ended[lost].refused or not ("in use" in ended[lost].err or "holds a run already" in ended[lost].err):
            raise Faulty("wrong", f"{text}: {ended[lost].err}")
        same_training(run, right[won[0]][0])
        check_whole(run)
        return text, "refused"

    def _measure(self, draw: random.Random, place: Path) -> tuple[str, str]:
        """Two measurements at once of one run."""
        run, pause = shutil.copytree(self.kept.measured, place / "run"), draw.uniform(0, 2)
        first = Command(f"evaluate {run} --no-latency")
        time.sleep(pause)
        ended = [Command(f"evaluate {run} --no-latency").wait(), first.wait()]
        for end in ended:
            if end.status and "in use" not in end.err:
                raise Faulty("wrong", f"evaluate beside evaluate: {end}")
        same_training(run, self.kept.measured)
        same_measured(run, self.kept.measured)
        check_whole(run)
        refused = any(end.status for end in ended)
        return f"evaluate beside evaluate, after {pause:.2f} s", "refused" if refused else "as without"


class DeadWorkers:
    """A process that reads images for a training dies; the training says so, and goes on later to the same end.

    Args:
        kept: Where the whole run is kept.
    """

    def __init__(self, kept: Kept) -> None:
        self.kept = kept

    def once(self, draw: random.Random, place: Path) -> tuple[str, str]:
        settings = (
            "--data fake --data.image_size 16 --data.workers 2 --data.batch_size 16 --schedule.max_steps 30 "
            "--model.arguments.width 2 --evaluation.calibration_images 16 --schedule.epochs 2"
        )
        right = self.kept.place / "right-workers"
        if not right.exists():
            done(f"train digits --out {right} {settings}")
        run = place / "run"
        command, pause = Command(f"train digits --out {run} {settings}"), draw.uniform(0, 2)
        killed = self._kill_one(command.process, pause, draw)
        ended = command.wait()
        if killed is None:
            raise Faulty("lost", f"there was no process to kill: {ended}")
        text = f"process {killed} was killed {pause:.2f} s after it began"
        if ended.status:
            if not (ended.refused and "a process that reads data has died" in ended.err):
                raise Faulty("lost", f"{text}: status {ended.status}: {ended.err}")
            again = f"train {run / RECIPE} --out {run} --resume"
            done(again if RunDirectory(run).started else f"train digits --out {run} {settings}")
        same_training(run, right)
        check_whole(run)
        return text, "refused" if ended.status else "as without"

    @staticmethod
    def _kill_one(session: int, pause: float, draw: random.Random) -> int | None:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            workers = [process for process in processes_of(session) if process != session and _reads(process)]
            if workers:
                time.sleep(pause)
                chosen = draw.choice(workers)
                try:
                    os.kill(chosen, signal.SIGKILL)
                except ProcessLookupError:
                    return None
                return chosen
            time.sleep(0.05)
        return None


def _reads(process: int) -> bool:
    """Whether a process is a worker of a loader, and not one that only starts or tracks others."""
    try:
        words = Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return False
    return b"resource_tracker" not in words
