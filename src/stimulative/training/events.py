"""What happens while a net trains, and what hangs on it: progress, metrics, warnings, and callbacks of your own.

::

    class Tell(Callback):
        def on_epoch(self, trainer, epoch):
            print(epoch.epoch, epoch.validation_quality)

    train("digits", "runs/digits", callbacks=[Tell()])
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stimulative.methods import Terms
from stimulative.runs import Epoch
from stimulative.training.accumulation import StepPart

if TYPE_CHECKING:
    from stimulative.training.trainer import Trainer


@dataclass(frozen=True)
class Step:
    """One batch that was trained on.

    Args:
        epoch: The number of the epoch, from 1.
        number: The number of the batch in it, from 1.
        of: How many batches the epoch has.
        part: The batch, and its share in the step of the optimiser; ``part.last`` says whether that has been taken.
        terms: What the method computed; tensors stay on their device, and reading one of them waits for it.
    """

    epoch: int
    number: int
    of: int
    part: StepPart
    terms: Terms


class Callback:
    """Called while a net trains. Override what is of interest; an exception ends the training.

    With several processes, each of them calls its own.
    """

    def on_step(self, trainer: Trainer, step: Step) -> None:
        """A batch was trained on, and the optimiser's step taken where the batch ends one."""

    def on_epoch(self, trainer: Trainer, epoch: Epoch) -> None:
        """An epoch was trained and validated; it is not saved yet."""

    def on_checkpoint(self, trainer: Trainer, path: Path) -> None:
        """A checkpoint was written whole; in the process that writes it."""
