"""Runs to which nothing has happened, kept to be compared with, and to be copied."""

import shutil
import time
from functools import cached_property
from pathlib import Path

from faults.command import done

TINY = (
    "--model.arguments.width 2 --data.batch_size 96 --schedule.epochs 2 --training.log_every 2 "
    "--evaluation.calibration_images 64"
)
METHODS = (
    "--method.name common",
    "--method.name stimulative --training.accumulate 2",
    "--method.name stimulative --method.schedule lean --optimizer.name adamw",
    "--method.name stochastic_depth --data.mixup 0.5",
    "--method.name self_distillation",
)


class Kept:
    """Of one place: a trained run of each method with the seconds that it took, and one that is measured.

    Args:
        place: Where they are.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self._trained: dict[str, tuple[Path, float]] = {}

    def trained(self, settings: str) -> tuple[Path, float]:
        """A run with these settings, and how long its training took."""
        if settings not in self._trained:
            run = self.place / f"kept-{len(self._trained)}"
            start = time.monotonic()
            done(f"train digits --out {run} {TINY} {settings}")
            self._trained[settings] = run, time.monotonic() - start
        return self._trained[settings]

    @cached_property
    def measured(self) -> Path:
        """A run whose subnets are measured."""
        run = self.place / "kept-measured"
        shutil.copytree(self.trained(METHODS[1])[0], run)
        done(f"evaluate {run} --no-latency")
        return run
