"""What a person sees while a net trains: a bar in a terminal, a line every so often elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

_LINES = 10


class TrainingProgress:
    """Shows the epochs of one run, with images or sequences per second and the time left.

    Args:
        title: What is training, such as ``stimulative, seed 0``.
        epochs: The number of epochs of the whole run.
        steps: Steps an epoch.
        start: Epochs that are done already.
        visible: Whether to show anything.
        unit: What a sample is called, for short.
    """

    def __init__(
        self, title: str, epochs: int, steps: int, *, start: int = 0, visible: bool = True, unit: str = "img"
    ) -> None:
        self.title = title
        self.epochs = epochs
        self.steps = steps
        self.visible = visible
        self.unit = unit
        self.console = Console(stderr=True)
        self.live = visible and self.console.is_terminal
        self.bar = Progress(
            TextColumn("{task.description:<24}"),
            BarColumn(bar_width=28),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(compact=True),
            console=self.console,
            disable=not self.live,
            transient=False,
        )
        self.task = self.bar.add_task(title, total=epochs * steps, completed=start * steps, state="")
        self.began = time.perf_counter()

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def steps_done(self, number: int) -> None:
        """Move the bar by that many steps."""
        self.bar.advance(self.task, number)

    def epoch_done(self, epoch: int, loss: float, quality: str, images_per_second: float) -> None:
        """Show what the epoch brought."""
        speed = f"{images_per_second:,.0f} {self.unit}/s"
        state = f"epoch {epoch}/{self.epochs}  loss {loss:.3f}  val {quality:>6}  {speed}"
        self.bar.update(self.task, state=state)
        often = max(1, self.epochs // _LINES)
        if self.visible and not self.live and (epoch % often == 0 or epoch == self.epochs):
            print(f"{self.title}: {state}", file=sys.stderr, flush=True)
