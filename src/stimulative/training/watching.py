"""What hangs on the events of every training: the log, what a person sees, and a warning where nothing is learned."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from stimulative.runs import METRICS, Epoch, MetricsFile
from stimulative.tasks import MEASURES
from stimulative.training.display import TrainingProgress
from stimulative.training.events import Callback, Step

if TYPE_CHECKING:
    from stimulative.training.trainer import Trainer


class Log(Callback):
    """Writes ``metrics.csv``, and to the loggers of the recipe."""

    def __init__(self, trainer: Trainer) -> None:
        path, measure = trainer.run_directory.file(METRICS), trainer.data.aim.measure
        tested = trainer.recipe.evaluation.test_every_epoch
        self.file = MetricsFile(path, trainer.epoch, measure, tested=tested, text=trainer.log_before)

    def on_epoch(self, trainer: Trainer, epoch: Epoch) -> None:
        """Write a row."""
        self.file.add(epoch)
        known = {column: getattr(epoch, name) for name, column in self.file.columns.items() if name != "step"}
        numbers = {column: value for column, value in known.items() if value is not None}
        for logger in [*trainer.fabric.loggers]:
            try:
                logger.log_metrics(metrics=numbers, step=epoch.step)
            except Exception as error:  # whatever a service or a disk refuses; the training is worth more
                trainer.fabric.loggers.remove(logger)
                warnings.warn(
                    f"{type(logger).__name__} cannot log any more ({type(error).__name__}: {error}); training goes on "
                    f"without it, and {METRICS} has everything",
                    stacklevel=2,
                )


class Watch(Callback):
    """Moves the bar, and tells of epochs.

    Args:
        display: What a person sees.
        often: Batches between two looks.
    """

    def __init__(self, display: TrainingProgress, often: int) -> None:
        self.display = display
        self.often = often

    def on_step(self, trainer: Trainer, step: Step) -> None:
        """Move the bar now and then."""
        if step.number % self.often == 0 or step.number == step.of:
            self.display.steps_done(step.number % self.often or self.often)

    def on_epoch(self, trainer: Trainer, epoch: Epoch) -> None:
        """Tell of the epoch."""
        shown = MEASURES[trainer.data.task].shown(epoch.validation_quality or 0.0)
        self.display.epoch_done(epoch.epoch, epoch.loss or 0.0, shown, epoch.images_per_second or 0.0)


class ChanceWarning(Callback):
    """Warns once if the net does no better than chance when it should."""

    def __init__(self) -> None:
        self.warned = False

    def on_epoch(self, trainer: Trainer, epoch: Epoch) -> None:
        """Compare with chance."""
        data, chance = trainer.data, trainer.data.chance
        if chance is None:
            return
        main_ce, top1 = epoch.main_ce or 0.0, epoch.validation_quality or 0.0
        late = epoch.epoch > max(1.0, trainer.recipe.schedule.warmup_epochs)
        if not late or self.warned or main_ce < 0.98 * chance.loss or top1 >= 1.5 * chance.top1:
            return
        self.warned = True
        what = "not below that of guessing by frequency alone," if data.is_text else f"about ln({data.classes}) ="
        advice = trainer.method.advice
        warnings.warn(
            f"after epoch {epoch.epoch} the training loss is still {main_ce:.3f}, {what} "
            f"{chance.loss:.3f}, and the validation accuracy {top1:.1f} %: the net does no better than chance. Try "
            "another optimizer.lr (ten times lower, or higher if it is tiny)" + (f", {advice}" if advice else ""),
            stacklevel=2,
        )
