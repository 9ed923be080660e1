"""Commands that are killed, or asked to end, at a random moment, and begun again."""

import random
import shutil
import signal
import time
from pathlib import Path

from faults.command import Faulty, done, interrupted, placed
from faults.kept import METHODS, TINY, Kept
from faults.results import check_whole, same_measured, same_page, same_tensors, same_training
from stimulative.runs import RECIPE, RunDirectory

ASKING = signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2


class KilledTraining:
    """A training that is killed once to three times goes on, and comes to the same as one that was not.

    Args:
        kept: What it is compared with.
        signals: What it is sent.
    """

    def __init__(self, kept: Kept, signals: tuple[int, ...]) -> None:
        self.kept, self.signals = kept, signals

    def once(self, draw: random.Random, place: Path) -> tuple[str, str]:
        settings = draw.choice(METHODS)
        whole, seconds = self.kept.trained(settings)
        run, at = place / "run", []
        for _ in range(draw.choice([1, 1, 2, 3])):
            number, moment = draw.choice(self.signals), draw.uniform(0, 1.1 * seconds)
            at.append(f"{signal.Signals(number).name} after {moment:.2f} s")
            if self._begun(run, settings, number, moment):
                break
        if not RunDirectory(run).finished:
            done(self._words(run, settings))
        same_training(run, whole)
        check_whole(run)
        return f"{settings}: {', '.join(at)}", "as without"

    def _words(self, run: Path, settings: str) -> str:
        if RunDirectory(run).started:
            return f"train {run / RECIPE} --out {run} --resume"
        return f"train digits --out {run} {TINY} {settings}"

    def _begun(self, run: Path, settings: str, number: int, moment: float) -> bool:
        """Train until the signal; whether it had finished before."""
        ended = interrupted(self._words(run, settings), number, moment)
        how = "go on with:", "nothing has been", "interrupted"
        if ended.status == 128 + number and not any(words in ended.err for words in how):
            raise Faulty("lost", f"it does not say how to go on: {ended.err}")
        return ended.status == 0


class KilledCommand:
    """A command on a measured run that is killed leaves it whole, and does the same when it is begun again.

    Args:
        kept: What it is compared with.
        words: Its words; RUN and OUT stand for the run, and for where it writes to, which may be RUN.
        signals: What it is sent.
    """

    def __init__(self, kept: Kept, words: str, signals: tuple[int, ...] = (signal.SIGKILL,)) -> None:
        self.kept, self.words, self.signals = kept, words, signals
        self.right: tuple[Path, Path, float] | None = None

    def once(self, draw: random.Random, place: Path) -> tuple[str, str]:
        if self.right is None:
            start = time.monotonic()
            right = self.kept.place / f"right-{self.words.split()[0]}"
            run = shutil.copytree(self.kept.measured, right / "run")
            done(placed(self.words, run, right))
            self.right = run, right, time.monotonic() - start
        run, number = shutil.copytree(self.kept.measured, place / "run"), draw.choice(self.signals)
        moment = draw.uniform(0, 1.05 * self.right[2])
        interrupted(placed(self.words, run, place), number, moment)
        for file in place.glob("out*.safetensors"):
            same_tensors(file, self.right[1] / file.name)  # what is there under its name is whole
        done(placed(self.words, run, place))
        self._compare(place)
        check_whole(run)
        return f"{self.words}: {signal.Signals(number).name} after {moment:.2f} s", "as without"

    def _compare(self, place: Path) -> None:
        assert self.right is not None
        same_training(place / "run", self.right[0])
        same_measured(place / "run", self.right[0])
        for file in self.right[1].glob("out*.safetensors"):
            same_tensors(place / file.name, file)
        for name in ("run", "out"):
            if (self.right[1] / name / "report.html").exists():
                same_page(place / name, self.right[1] / name)


class KilledStudy:
    """A comparison that is killed leaves no processes, and comes to the same when it is begun again."""

    words = f"compare digits --methods common,stimulative --seeds 1 --jobs 2 --out OUT {TINY}"

    def __init__(self, kept: Kept) -> None:
        self.kept = kept
        self.right: tuple[Path, float] | None = None

    def once(self, draw: random.Random, place: Path) -> tuple[str, str]:
        if self.right is None:
            start, out = time.monotonic(), self.kept.place / "right-study"
            done(self.words.replace("OUT", str(out)))
            self.right = out, time.monotonic() - start
        number, moment = draw.choice((signal.SIGKILL, *ASKING[:2])), draw.uniform(0, self.right[1])
        words = self.words.replace("OUT", str(place / "study"))
        interrupted(words, number, moment)
        done(words)
        for run in sorted(path.parent for path in self.right[0].glob("*/recipe.yaml")):
            same_training(place / "study" / run.name, run)
            same_measured(place / "study" / run.name, run)
            check_whole(place / "study" / run.name)
        return f"{signal.Signals(number).name} after {moment:.2f} s", "as without"
