"""Training that is interrupted, or counted, by what hangs on its events."""

from pathlib import Path

from stimulative.runs import Epoch
from stimulative.training import Callback, Step, Trainer


class Interrupt(Callback):
    """A Ctrl-C after so many batches, when an epoch is in the log, or once its checkpoint of a name is written."""

    def __init__(
        self, *, step: int | None = None, epoch: int | None = None, checkpoint: tuple[str, int] | None = None
    ) -> None:
        self.step, self.epoch, self.checkpoint, self.seen = step, epoch, checkpoint, 0

    def on_step(self, trainer: Trainer, step: Step) -> None:
        self.seen += 1
        if self.seen == self.step:
            raise KeyboardInterrupt

    def on_epoch(self, trainer: Trainer, epoch: Epoch) -> None:
        if epoch.epoch == self.epoch:
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
