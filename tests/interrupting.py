"""Training that is interrupted, or counted, by what hangs on its events."""

from pathlib import Path

from stimulative.training import Callback, Step, Trainer


class Interrupt(Callback):
    """A Ctrl-C after the given number of batches, or once a checkpoint of a name is written at an epoch's end."""

    def __init__(self, *, step: int | None = None, checkpoint: tuple[str, int] | None = None) -> None:
        self.step, self.checkpoint, self.seen = step, checkpoint, 0

    def on_step(self, trainer: Trainer, step: Step) -> None:
        self.seen += 1
        if self.seen == self.step:
            raise KeyboardInterrupt

    def on_checkpoint(self, trainer: Trainer, path: Path) -> None:
        if (path.name, trainer.epoch) == self.checkpoint:
            raise KeyboardInterrupt


class Count(Callback):
    """The batches that were trained on."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def on_step(self, trainer: Trainer, step: Step) -> None:
        self.steps.append(step)
